"""What ``--trust`` allows, for how long, and what it does not."""

import sys
import warnings

import pytest
from click.testing import CliRunner

from blip_rl.cli import cli
from blip_rl.errors import UserError
from blip_rl.recipes import dump_run_config, load_run_config, resolve, trusting
from blip_rl.recipes import trust as trust_module
from blip_rl.recipes.trust import TRUSTED, import_problems
from blip_rl.task_schedule import TaskConfig

PACKAGE = "an_untrusted_package"
CODE = """
import pathlib, gymnasium
pathlib.Path({mark!r}).touch()
class Same(gymnasium.Wrapper):
    def __init__(self, env, size=1):
        super().__init__(env)
"""
WRAPPED = f'[[tasks]]\nname = "a"\ngame = "CartPole-v1"\nwrappers = ["{PACKAGE}:Same"]\n'


@pytest.fixture(autouse=True)
def new_process(monkeypatch, tmp_path):
    """Return a function that forgets what this process trusts, as a new process would."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def forget():
        monkeypatch.setattr(trust_module, "_trusted_here", set())
        sys.modules.pop(PACKAGE, None)

    forget()
    return forget


@pytest.fixture
def mark(tmp_path, monkeypatch):
    """A package that creates a file when it is imported."""
    marked = tmp_path / "mark"
    (tmp_path / f"{PACKAGE}.py").write_text(CODE.format(mark=str(marked)))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield marked
    sys.modules.pop(PACKAGE, None)


def wrapped(wrapper, game="CartPole-v1"):
    return TaskConfig(name="a", game=game, wrappers=[wrapper])


def test_a_file_imports_no_wrapper_without_trust(sequence_file, mark, tmp_path):
    out = tmp_path / "run"
    done = CliRunner().invoke(cli, ["train", "--games", sequence_file(WRAPPED), "--out", str(out)])
    assert done.exit_code == 2
    assert f"tasks[0].wrappers[0] = '{PACKAGE}:Same': package '{PACKAGE}' is not trusted" in done.output
    assert not mark.exists()
    assert not out.exists()
    assert not trust_module.trust_file().exists()


def test_wrappers_of_gymnasium_need_no_trust_and_imported_modules_do():
    assert import_problems(wrapped("gymnasium.wrappers:FlattenObservation")) == []
    for wrapper in ("subprocess:Popen", "gymnasium.wrappers.rendering:RecordVideo", "gymnasium.wrapper:X"):
        assert len(import_problems(wrapped(wrapper))) == 1


@pytest.mark.parametrize(("value", "allowed"), [(PACKAGE, True), (f"{PACKAGE}.more", False), ("an", False)])
def test_the_environment_variable_covers_the_modules_of_a_package(monkeypatch, value, allowed):
    monkeypatch.setenv(TRUSTED, f"other, {value}")
    assert (import_problems(wrapped(f"{PACKAGE}.part:Same")) == []) is allowed


def test_trust_is_remembered_for_the_same_wrapper_with_the_same_arguments(new_process):
    given = {"wrapper": f"{PACKAGE}:Same", "size": 2}
    with trusting():
        assert import_problems(wrapped(given)) == []
    new_process()
    assert import_problems(wrapped(given)) == []
    for other in (f"{PACKAGE}:Same", {**given, "size": 3}, f"{PACKAGE}:Other"):
        assert len(import_problems(wrapped(other))) == 1
    assert len(import_problems(wrapped(given, game=f"{PACKAGE}:CartPole-v1"))) == 1


def test_a_run_of_a_trusted_recipe_is_trusted_and_a_changed_run_is_not(sequence_file, tmp_path, new_process):
    with trusting():
        config = resolve(sequence_file(WRAPPED), "finetune")
    new_process()
    (tmp_path / "config.toml").write_text(dump_run_config(config))
    assert load_run_config(tmp_path) == config
    (tmp_path / "config.toml").write_text(dump_run_config(config).replace(":Same", ":Other"))
    with pytest.raises(UserError, match=r"tasks\[0\]\.wrappers\[0\] = .*is not trusted"):
        load_run_config(tmp_path)


def test_a_package_named_on_the_command_line_is_remembered_only_with_trust(mark, tmp_path, new_process):
    for given in (False, True):
        with trusting(given):
            config = resolve(f"{PACKAGE}:CartPole-v1", "finetune")
        new_process()
        assert (import_problems(config.tasks[0]) == []) is given


def test_nothing_is_trusted_if_the_recipe_has_another_error_or_the_caller_says_so(sequence_file, new_process):
    with pytest.raises(UserError, match="steps"), trusting():
        resolve(sequence_file(WRAPPED + "steps = 0"), "finetune")
    assert len(import_problems(wrapped(f"{PACKAGE}:Same"))) == 1
    with trusting(remember=False):
        resolve(sequence_file(WRAPPED), "finetune")
    assert import_problems(wrapped(f"{PACKAGE}:Same")) == []
    new_process()
    assert len(import_problems(wrapped(f"{PACKAGE}:Same"))) == 1


def test_trust_that_cannot_be_stored_holds_for_the_process_with_a_warning(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="--trust is not remembered: Not a directory"), trusting():
        import_problems(wrapped(f"{PACKAGE}:Same"))
    assert import_problems(wrapped(f"{PACKAGE}:Same")) == []


def test_a_file_with_the_same_trust_is_not_written_again(new_process):
    for expected in ([f'wrapper "{PACKAGE}:Same"'], []):
        with trusting() as new:
            import_problems(wrapped(f"{PACKAGE}:Same"))
        assert new == expected
        new_process()
    assert trust_module.trust_file().read_text() == f'wrapper "{PACKAGE}:Same"\n'


def test_without_a_home_folder_nothing_is_remembered(monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setattr(trust_module.Path, "home", lambda: (_ for _ in ()).throw(RuntimeError))
    assert trust_module.trust_file() is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(import_problems(wrapped(f"{PACKAGE}:Same"))) == 1


def test_the_command_line_prints_what_it_trusts_once(sequence_file, mark):
    path = sequence_file(WRAPPED)
    command = ["show", "finetune", "tasks.game", "--games", path]
    assert CliRunner().invoke(cli, command).exit_code == 2
    for expected in (f'trusted: wrapper "{PACKAGE}:Same"\n', ""):
        done = CliRunner().invoke(cli, [*command, "--trust"])
        assert (done.exit_code, done.stderr) == (0, expected)
    assert CliRunner().invoke(cli, command).exit_code == 0
    assert CliRunner().invoke(cli, ["show", f"{path}:a", "tasks.game"]).exit_code == 0
    assert not mark.exists()
