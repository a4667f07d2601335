"""Which modules each command imports; scripts/benchmark_startup.py measures the time."""

import gc
import subprocess
import sys

import pytest

from blip_rl.cli import cli
from blip_rl.cli.options import loading

HEAVY = ("torch", "numpy", "pydantic", "matplotlib", "stable_baselines3", "gymnasium", "ale_py", "tensorboard")
LEARNING = ("torch", "stable_baselines3", "tensorboard")


def imported(arguments, modules, cwd):
    """Return the exit code and which of the modules the command has imported."""
    code = (
        "import sys; from blip_rl.cli import cli\n"
        f"try: cli.main({[str(a) for a in arguments]!r})\n"
        "except SystemExit as end: code = end.code\n"
        f"print('IMPORTED', code or 0, *(name for name in {modules!r} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=True)
    _, end, *found = done.stdout.splitlines()[-1].split()
    return int(end), found


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


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([verb, "-h"] for verb in sorted(cli.commands))])
def test_help_imports_nothing_heavy(arguments, tmp_path):
    assert imported(arguments, HEAVY, tmp_path) == (0, [])


@pytest.mark.parametrize("arguments", [["list"], ["report", "run"], ["inspect", "run"]])
def test_what_only_reads_imports_no_torch(arguments, run):
    assert imported(arguments, LEARNING, run.parent) == (0, [])


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--out", "run"],
        ["train", "--resume", "nowhere"],
        ["train", "--games", "kungfoo"],
        ["train", "--games", "kungfoo", "--agent", "blop", "--set", "evaluation.episodes=x"],
        ["train", "--agent", "blop"],
        ["evaluate", "."],
        ["evaluate", "run", "--games", "pnog"],
        ["render", "."],
        ["render", "run", "nowhere"],
        ["render", "run", "--format", "png"],
        ["render", "run", "--episodes", "0"],
        ["render", "run", "--out", "run/config.toml"],
        ["report", "nowhere"],
        ["inspect", "."],
        ["show", "blop"],
        ["show", "blip", "--games", "kungfoo"],
        ["copy", "blop", "my.toml"],
        ["copy", "blip", "run/config.toml"],
    ],
)
def test_what_is_wrong_with_a_command_is_said_before_torch_is_imported(arguments, run):
    assert imported(arguments, LEARNING, run.parent) == (2, [])


def test_a_training_gets_to_its_second_update_without_compiler_and_plots(tmp_path):
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


@pytest.mark.parametrize("looked_before", [True, False])
def test_garbage_is_looked_for_again_once_libraries_are_loaded(looked_before):
    def fail():
        with loading():
            assert not gc.isenabled()
            raise ImportError

    looked = gc.isenabled()
    try:
        (gc.enable if looked_before else gc.disable)()
        with pytest.raises(ImportError):
            fail()
        assert gc.isenabled() is looked_before
    finally:
        (gc.enable if looked else gc.disable)()
