"""``docs/add-a-method.md`` does what it says: its method, recipe and commands, in a copy of the checkout."""

import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "add-a-method.md").read_text(encoding="utf-8")
METHOD_LINES = 60


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, flags=re.DOTALL)


def commands():
    """Every line of the guide's shell blocks, as words, in order."""
    return [shlex.split(line) for block in blocks("bash") for line in block.splitlines()]


def run(words, folder):
    """Run one command in the copy, whose package comes before any installed one."""
    programs = {"blip-rl": [sys.executable, "-m", "blip_rl"], "pytest": [sys.executable, "-m", "pytest", "-q"]}
    command = [*programs.get(words[0], words[:1]), *words[1:]]
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """The copy, with the guide's files where the guide puts them."""
    folder = tmp_path_factory.mktemp("checkout")
    without_caches = shutil.ignore_patterns("__pycache__")
    for part in ("blip_rl", "agents", "envs", "tests", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, folder / part, **({"ignore": without_caches} if copy is shutil.copytree else {}))
    (path,) = re.findall(r"^## 1\..*`(.*)`$", GUIDE, flags=re.MULTILINE)
    (code,) = blocks("python")
    (folder / path).write_text(code, encoding="utf-8")
    (recipe,) = re.findall(r"^## 2\..*`(.*)`$", GUIDE, flags=re.MULTILINE)
    (settings,) = blocks("toml")
    (folder / recipe).write_text(settings, encoding="utf-8")
    return folder


def command_with(*words):
    (found,) = [command for command in commands() if set(words) <= set(command)]
    return found


def test_the_method_is_short_and_not_in_the_repository(checkout):
    (code,) = blocks("python")
    assert len(code.splitlines()) <= METHOD_LINES
    assert not (ROOT / "blip_rl" / "methods" / "mas.py").exists()
    assert not (ROOT / "agents" / "mas.toml").exists()


def test_it_trains_and_writes_scores(checkout):
    command = command_with("train", "--steps")
    printed = run(command, checkout)
    assert re.search(r"^ACC\b.*\d\.\d{3}", printed, flags=re.MULTILINE), printed
    assert re.search(r"\bBWT\b.*\d\.\d{3}", printed), printed
    folder = checkout / command[command.index("--out") + 1]
    with (folder / "scores.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    last = [row for row in rows if row["stage"] == "4" and row["phase"] == "after"]
    assert {row["task"] for row in last} == {f"cartpole-{letter}" for letter in "abcd"}
    events = EventAccumulator(str(folder)).Reload()
    importance = [event.value for event in events.Scalars("method/mean_importance")]
    assert len(importance) == 4
    assert 0 < importance[0] < importance[-1]  # one task's after another's, added up
    assert {"continual/acc", "eval/cartpole-a/return"} <= set(events.Tags()["scalars"])


def test_it_passes_the_contract_tests(checkout):
    """The contract's own tests, on a method that they have never seen."""
    printed = run(command_with("pytest"), checkout)
    assert int(re.search(r"(\d+) passed", printed)[1]) >= 10


def test_the_options_of_the_longer_commands_exist():
    """They take minutes and are not run here: their recipe must exist and the command take these options."""
    command = [words for words in commands() if words[:2] == ["blip-rl", "train"]][-1]
    assert command == ["blip-rl", "train", "--games", "cartpole4", "--agent", "mas"]
    sweep = command_with("sweep")
    assert sweep[:2] == ["blip-rl", "sweep"]
    usage = subprocess.run(
        [sys.executable, "-m", "blip_rl", "sweep", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert all(word in usage for word in sweep if word.startswith("--"))
    assert command_with("report") == ["blip-rl", "report", sweep[-1]]


def test_the_files_it_points_to_exist():
    for path in re.findall(r"`((?:blip_rl|tests|scripts|agents)/[\w/.]+\.\w+)`", GUIDE):
        assert (ROOT / path).exists() or path.endswith(("mas.py", "mas.toml")), path
    for name in re.findall(r"\| `(\w+\.py)` \|", GUIDE):
        assert (ROOT / "blip_rl" / "methods" / name).exists(), name
