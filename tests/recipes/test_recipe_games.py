import pytest

from blip_rl.errors import UserError
from blip_rl.recipes import files as recipe_files
from blip_rl.recipes import (
    list_games,
    list_sequences,
    resolve,
    split_names,
)


def test_names_of_one_sequence_use_its_sections():
    config = resolve("cartpole-b,cartpole-a", "blip")
    assert [task.name for task in config.tasks] == ["cartpole-b", "cartpole-a"]
    assert config.evaluation == resolve("cartpole4", "blip").evaluation
    assert config.sequence_name == "cartpole-b+cartpole-a"


def test_atari6s_definition_of_a_game_counts():
    assert resolve("kungfu", "blip").tasks[0].steps == 10_000_000


def test_sections_come_from_the_first_sequence_of_a_mixed_list():
    assert resolve("pong,cartpole-a,kungfu", "blip").evaluation == resolve("cartpole4", "blip").evaluation
    assert resolve("kungfu,cartpole-a", "blip").evaluation == resolve("atari6", "blip").evaluation


def test_a_rom_or_gymnasium_id_needs_no_recipe():
    pong, cartpole = resolve("pong, CartPole-v1", "blip").tasks
    assert (pong.name, pong.game, pong.steps, pong.random_score) == ("pong", "pong", 10_000_000, None)
    assert (cartpole.name, cartpole.game, cartpole.observation_mix_seed) == ("CartPole-v1", "CartPole-v1", None)


def test_a_rom_that_a_sequence_plays_gets_its_scores():
    assert resolve("space_invaders", "blip").tasks == resolve("spaceinvaders", "blip").tasks


def test_a_sequence_file_can_be_mixed_with_names(sequence_file):
    path = sequence_file('[[tasks]]\nname = "ping"\ngame = "pong"\nsteps = "3k"\n[evaluation]\nepisodes = 3')
    config = resolve(f"{path},kungfu", "blip")
    assert [task.name for task in config.tasks] == ["ping", "kungfu"]
    assert config.evaluation.episodes == 3
    assert resolve(path, "blip").sequence_name == "mine"


def test_steps_apply_to_every_task():
    assert {task.steps for task in resolve("atari6", "blip", steps="20k").tasks} == {20_000}


@pytest.mark.parametrize(
    ("games", "parts"),
    [
        ("kungfoo", ["unknown game 'kungfoo'", "did you mean kungfu?", "blip-rl list games"]),
        ("atari7", ["unknown game 'atari7'", "did you mean atari"]),
        ("", ["--games ''", "separated by single commas", "kungfu,boxing"]),
        ("kungfu,,boxing", ["--games 'kungfu,,boxing'", "separated by single commas"]),
        ("kungfu,atari2", ["'kungfu' is given twice", "learns each task once", "different names"]),
        ("missing.toml", ["missing.toml", "no such file"]),
    ],
)
def test_wrong_games(games, parts, problems):
    (line,) = problems(games, "blip")
    assert all(part in line for part in parts), line


def test_every_wrong_game_is_named(problems):
    assert len(problems("kungfoo,boxxing,pong", "blip")) == 2


def test_split_names():
    assert split_names(" a, b ") == ("a", "b")
    with pytest.raises(UserError, match="--only 'a,'"):
        split_names("a,", "--only")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('[[tasks]]\nname = "a"\ngame = "pongg"', ["tasks[0].game = 'pongg'", "did you mean pong?"]),
        ('[[tasks]]\nname = "a"\ngame = "this:That-v0"', ["tasks[0].game", "may not import a package"]),
        ('[[tasks]]\nname = "a"', ["tasks[0].game: missing", "expected text"]),
        (
            '[[tasks]]\nname = "a"\ngame = "pong"\nstep = 3',
            ["tasks[0].step = 3", "did you mean steps?", "allowed: name"],
        ),
        ('[[tasks]]\nname = "a"\ngame = "pong"\nsteps = "5x"', ["steps = '5x'", "whole number of steps", "500k"]),
        ('[[tasks]]\nname = "a b"\ngame = "pong"', ["name = 'a b'", "letters, digits"]),
        ('[[task]]\nname = "a"', ["tasks: missing", "at least 1"]),
        ("tasks = []", ["tasks = []", "a list of at least 1 value"]),
        (
            '[agent.ppo]\nepoch = 3\n[[tasks]]\nname = "a"\ngame = "pong"',
            ["agent.ppo.epoch = 3", "did you mean epochs?"],
        ),
    ],
)
def test_wrong_sequences(text, parts, sequence_file, problems):
    lines = problems(sequence_file(text), "blip")
    assert any(all(part in line for part in [*parts, "mine.toml"]) for line in lines), lines


def test_a_recipe_cannot_run_code(sequence_file, tmp_path, monkeypatch, problems):
    marker = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    problems(sequence_file('[[tasks]]\nname = "a"\ngame = "evil:A-v0"'), "blip")
    assert not marker.exists()


def test_the_sequences_agent_section_beats_the_recipe_and_set_beats_both(sequence_file):
    path = sequence_file('[agent.ppo]\nepochs = 7\n[[tasks]]\nname = "a"\ngame = "pong"')
    assert resolve(path, "blip").agent.ppo.epochs == 7
    assert resolve(path, "blip", overrides=["ppo.epochs=9"]).agent.ppo.epochs == 9


def test_a_broken_sequence_leaves_the_others_usable(tmp_path, monkeypatch):
    (tmp_path / "broken.toml").write_text("[")
    (tmp_path / "good.toml").write_text('description = "g"\n[[tasks]]\nname = "ping"\ngame = "pong"')
    monkeypatch.setattr(recipe_files, "recipe_folder", lambda kind: tmp_path)
    assert [game.name for game in list_games()] == ["ping"]
    assert "not valid TOML" in list_sequences()[0].description
    assert recipe_files.sequence_with("ping") == (tmp_path / "good.toml", "ping")
