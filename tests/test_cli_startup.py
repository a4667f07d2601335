"""Which modules each command imports; scripts/benchmark_startup.py measures the time."""

import gc
import subprocess
import sys

import pytest

from blip_rl.api.loading import loading
from blip_rl.cli import cli

HEAVY = ("torch", "numpy", "pydantic", "matplotlib", "stable_baselines3", "gymnasium", "ale_py", "tensorboard")
LEARNING = ("torch", "stable_baselines3", "tensorboard")


COMMANDS = """
import os, sys
from blip_rl.cli import cli
modules, commands = {modules!r}, {commands!r}
sys.stdout = open(os.devnull, "w")
for command in commands:
    try:
        cli.main(command)
    except SystemExit as end:
        print(command, end.code or 0, [name for name in modules if name in sys.modules], file=sys.__stdout__)
"""


def imported(commands, modules, cwd):
    """Run commands in one process, one after another; return a line for each: command, exit code, modules imported."""
    code = COMMANDS.format(modules=modules, commands=commands)
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.fixture
def run(tmp_path):
    """The text files of a run that learned one game."""
    path = tmp_path / "run"
    path.mkdir()
    (path / "config.toml").write_text(
        'agent_name = "blip"\nseed = 0\n[agent.method]\nname = "blip"\n'
        '[[tasks]]\nname = "pong"\nsteps = 1000\nrandom_score = 0.0\nreference_score = 1.0\n',
        encoding="utf-8",
    )
    (path / "scores.csv").write_text(
        "env_steps,stage,phase,task,seed,return,length_steps,truncated,normalised,actions\n"
        "1000,1,after,pong,1000003,0.5,9,0,0.5,greedy\n",
        encoding="utf-8",
    )
    return path


def test_help_imports_nothing_heavy(tmp_path):
    commands = [["--help"], ["--version"], *([verb, "-h"] for verb in sorted(cli.commands))]
    assert imported(commands, HEAVY, tmp_path) == [f"{command} 0 []" for command in commands]


def test_commands_that_only_read_import_no_torch(run):
    commands = [["list"], ["report", "run"], ["inspect", "run"]]
    assert imported(commands, LEARNING, run.parent) == [f"{command} 0 []" for command in commands]


def test_invalid_input_is_refused_before_torch_is_imported(run):
    commands = [
        ["train", "--out", "run"],
        ["train", "--resume", "nowhere"],
        ["train", "--games", "kungfoo", "--agent", "blop", "--set", "evaluation.episodes=x"],
        ["evaluate", "."],
        ["evaluate", "run", "--games", "pnog"],
        ["render", "."],
        ["render", "run", "--format", "png"],
        ["render", "run", "--out", "run/config.toml"],
        ["report", "nowhere"],
        ["inspect", "."],
        ["show", "blop"],
        ["show", "blip", "--games", "kungfoo"],
        ["copy", "blop", "my.toml"],
        ["copy", "blip", "run/config.toml"],
    ]
    assert imported(commands, LEARNING, run.parent) == [f"{command} 2 []" for command in commands]


def test_training_reaches_its_second_update_without_torch_dynamo_and_matplotlib(tmp_path):
    """Both take seconds to import; plots are drawn at the end of a task."""
    code = """
import sys
from blip_rl.cli import cli
from blip_rl.learner.ppo import ContinualPPO
class Enough(Exception): pass
learn = ContinualPPO.train
def train(agent):
    if agent._n_updates:
        raise Enough
    learn(agent)
ContinualPPO.train = train
small = ["ppo.environments=2", "ppo.rollout_steps=8", "ppo.minibatches=2", "ppo.epochs=1"]
settings = [part for text in small for part in ("--set", text)]
try:
    cli.main(["train", "--games", "CartPole-v1", "--steps", "100", "--threads", "1", *settings], standalone_mode=False)
except Enough:
    print("IMPORTED", *(name for name in ("torch._dynamo", "sympy", "matplotlib") if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "IMPORTED"


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_collection_is_restored_once_libraries_are_loaded(enabled):
    def fail():
        with loading():
            assert not gc.isenabled()
            raise ImportError

    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with pytest.raises(ImportError):
            fail()
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()
