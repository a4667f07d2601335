"""A recipe or run folder cannot make Gymnasium import a package; ``--games`` can."""

import sys

import pytest

from blip_rl.errors import UserError
from blip_rl.recipes import dump_run_config, load_run_config, resolve
from blip_rl.recipes.trust import TRUSTED, import_problems
from blip_rl.task_schedule import TaskConfig
from blip_rl.untrusted.files import MOST_TASKS

PACKAGE = "an_untrusted_package"


@pytest.fixture
def mark(tmp_path, monkeypatch):
    """A package that creates a file when it is imported."""
    marked = tmp_path / "mark"
    (tmp_path / f"{PACKAGE}.py").write_text(f"open({str(marked)!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield marked
    sys.modules.pop(PACKAGE, None)


@pytest.fixture
def run(tmp_path):
    """The folder of a run whose recipe can be changed."""

    def write(old="", new=""):
        text = dump_run_config(resolve("cartpole-a", "finetune"))
        assert old in text
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        (folder / "config.toml").write_text(text.replace(old, new, 1))
        return folder

    return write


def test_a_run_folder_runs_no_code(run, mark):
    folder = run('game = "CartPole-v1"', f'game = "{PACKAGE}:CartPole-v1"')
    with pytest.raises(UserError, match=rf"tasks\[0\].game = .*is not trusted.*{TRUSTED}={PACKAGE}"):
        load_run_config(folder)
    assert not mark.exists()
    assert PACKAGE not in sys.modules


@pytest.mark.parametrize("name", [f"{PACKAGE}.deep", f"x:{PACKAGE}", "", "../x", "a b"])
def test_no_spelling_of_a_package_is_imported(run, mark, name):
    with pytest.raises(UserError, match="is not trusted"):
        load_run_config(run('game = "CartPole-v1"', f'game = "{name}:CartPole-v1"'))
    assert not mark.exists()


def test_a_package_in_the_environment_variable_is_allowed(run, mark, monkeypatch):
    monkeypatch.setenv(TRUSTED, f"other, {PACKAGE}")
    folder = run('game = "CartPole-v1"', f'game = "{PACKAGE}:CartPole-v1"')
    assert load_run_config(folder).tasks[0].game == f"{PACKAGE}:CartPole-v1"


def test_packages_that_are_already_imported_are_allowed():
    assert import_problems(TaskConfig(name="x", game="json:CartPole-v1")) == []
    (problem,) = import_problems(TaskConfig(name="x", game="json.no_such_module:CartPole-v1"))
    assert "is not trusted" in problem


@pytest.mark.parametrize("name", ["../../../tmp/x", "/etc/x", "a\\nb", "a\\u001b[2J", "\\u202ea"])
def test_names_used_in_file_names_have_no_slashes_or_control_characters(run, name):
    with pytest.raises(UserError, match=r"agent_name = .*without slashes and control characters"):
        load_run_config(run('agent_name = "finetune"', f'agent_name = "{name}"'))


def test_too_many_tasks_are_refused_before_they_are_validated(run, sequence_file):
    tasks = "".join(f'[[tasks]]\nname = "a{n}"\ngame = "nope{n}"\n' for n in range(MOST_TASKS + 1))
    with pytest.raises(UserError, match=f"{MOST_TASKS + 1} tasks: expected at most {MOST_TASKS}"):
        resolve(sequence_file(tasks), "finetune")
    with pytest.raises(UserError, match=f"expected at most {MOST_TASKS}"):
        resolve(",".join(["kungfu"] * 40_000), "finetune")
    folder = run()
    with (folder / "config.toml").open("a") as file:
        file.write(tasks)
    with pytest.raises(UserError, match="expected at most"):
        load_run_config(folder)


def test_a_link_that_leaves_the_run_folder_is_refused(run, tmp_path):
    folder = run()
    (folder / "scores.csv").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="leads out"):
        load_run_config(folder)


@pytest.mark.parametrize("value", [f"0x{'f' * 9_000}", "{a = " * 60 + "1" + "}" * 60])
def test_values_that_cannot_be_printed_are_treated_as_text(value, problems):
    (line,) = problems("cartpole-a", "finetune", overrides=[f"ppo.epochs={value}"])
    assert "should be a valid integer" in line
    assert len(line) < 300
