"""Validation of paths given to a command, and its messages."""

from pathlib import Path

import pytest

from blip_rl.errors import UserError
from blip_rl.storage import paths


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """``runs/`` with two runs and another folder, beside a file."""
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second"):
        Path("runs", name).mkdir(parents=True)
        Path("runs", name, "config.toml").write_text(f'[[tasks]]\nname = "{name}"\n', encoding="utf-8")
    Path("runs/none").mkdir()
    Path("file").touch()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("runs", "'runs' is not a run folder but holds some: did you mean 'runs/first' or another of its 2?"),
        ("runs/none", "'runs/none' is not a run folder: it has no config.toml (blip-rl train creates run folders)"),
        ("runs/scond", "folder 'runs/scond' does not exist: did you mean runs/second?"),
        ("rums", "folder 'rums' does not exist: did you mean runs?"),
        ("elsewhere", "folder 'elsewhere' does not exist: expected a folder that blip-rl train created"),
        ("file", "'file' is a file: expected a folder that blip-rl train created"),
        ("runs/first/config.toml", "'runs/first/config.toml' is a file: did you mean 'runs/first'?"),
    ],
)
def test_a_path_that_is_not_a_run_is_refused_with_a_suggestion(path, message):
    with pytest.raises(UserError) as caught:
        paths.check_run(Path(path))
    assert str(caught.value) == message


def test_a_run_folder_is_accepted():
    paths.check_run(Path("runs/first"))
    assert paths.task_games(Path("runs/first")) == {"first": ""}


@pytest.mark.parametrize("path", ["runs", "file", "file/new"])
def test_a_new_folder_must_not_exist_and_be_creatable(path):
    with pytest.raises(UserError, match=r"exists|not a writable folder"):
        paths.check_new_folder(Path(path))
    paths.check_new_folder(Path("deep/new"))
    assert not Path("deep").exists()


def test_a_run_folder_must_be_utf8():
    """TensorBoard cannot write to another."""
    with pytest.raises(UserError, match=r"run folder '.*o\\udcff' is not UTF-8"):
        paths.check_new_run(Path("o\udcff"))
    assert not Path("o\udcff").exists()


def test_an_empty_folder_can_become_a_run():
    paths.check_new_run(Path("runs/none"))


KILLED_EARLY = (".lock", ".blip-rl-0123456789abcdef.tmp", "command.txt", "scores.csv")


def test_leftovers_of_a_run_killed_before_its_recipe_can_become_a_run():
    for name in KILLED_EARLY:
        Path("runs/none", name).touch()
    paths.check_new_run(Path("runs/none"))


@pytest.mark.parametrize("other", ["notes.txt", "config.toml", "checkpoints"])
def test_a_folder_with_anything_else_is_not_written_into(other):
    for name in KILLED_EARLY:
        Path("runs/none", name).touch()
    Path("runs/none", other).mkdir() if other == "checkpoints" else Path("runs/none", other).touch()
    with pytest.raises(UserError, match="exists"):
        paths.check_new_run(Path("runs/none"))


def test_tables_without_a_lock_are_not_leftovers_of_a_run():
    """A run's folder has a lock before it has anything else."""
    Path("runs/none/scores.csv").touch()
    with pytest.raises(UserError, match="exists"):
        paths.check_new_run(Path("runs/none"))


def test_a_link_to_an_empty_folder_is_not_written_into():
    Path("runs/link").symlink_to("none")
    with pytest.raises(UserError, match="exists"):
        paths.check_new_run(Path("runs/link"))


def test_an_output_folder_may_exist():
    paths.check_writable_folder(Path("runs"))
    paths.check_writable_folder(Path("deep/new"))
    for path in ("file", "file/new"):
        with pytest.raises(UserError, match=r"is a file|not a writable folder"):
            paths.check_writable_folder(Path(path))


def test_a_missing_input_file_is_refused():
    paths.check_is_file(Path("file"))
    for path, message in (("runs", "is a folder"), ("nothing", "does not exist")):
        with pytest.raises(UserError, match=message):
            paths.check_is_file(Path(path))


def test_an_unknown_game_is_refused_with_a_suggestion():
    assert paths.named_games(["b"], {"a": "pong", "b": "boxing"}) == ("b",)
    with pytest.raises(UserError, match="never saw 'boxin': did you mean boxing"):
        paths.named_games(["boxing", "boxin"], {"boxing": "boxing"})


@pytest.mark.parametrize(
    "asked", ["kungfu", "KUNGFU", "kung_fu_master", "Kung-Fu Master", "KungFuMaster", "ALE/KungFuMaster-v5"]
)
def test_a_game_of_a_run_is_found_in_any_spelling(asked):
    assert paths.named_games([asked], {"pong": "pong", "kungfu": "kung_fu_master"}) == ("kungfu",)


def test_a_game_played_by_several_tasks_is_ambiguous():
    tasks = {"pong": "pong", "pong-again": "pong"}
    assert paths.named_games(["pong"], tasks) == ("pong",), "an exact name"
    with pytest.raises(UserError, match="'Pong' is played by several games of this run: expected one of pong, pong-ag"):
        paths.named_games(["Pong"], tasks)
