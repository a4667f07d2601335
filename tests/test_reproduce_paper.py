"""The protocol of the paper as a script: refused options, the estimate, and a rehearsal that is killed and goes on."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from blip_rl.recipes import load_run_config

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "reproduce_paper.sh"
AGENTS = ("blip-reference", "ewc-online", "finetune")
FAST = (
    "--seeds=0", "--steps=2000", "--device=cpu", "--jobs=1",
    "--set=trunk.image.conv=[[4,8,8],[4,3,2]]", "--set=trunk.image.hidden=[8]",
)  # fmt: skip


def environment():
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}


def reproduce(*options):
    return subprocess.run([SCRIPT, *options], env=environment(), capture_output=True, text=True)


@pytest.mark.parametrize("options", [(), ("--rehearse",), ("--fast", "out")])
def test_missing_folders_and_other_options_print_the_usage(options):
    done = reproduce(*options)
    assert done.returncode == 2
    assert "scripts/reproduce_paper.sh --rehearse OUT" in done.stderr


@pytest.mark.slow
def test_the_estimate_plans_nine_runs_of_the_papers_steps_and_writes_nothing(tmp_path):
    done = reproduce("--estimate", str(tmp_path / "out"), "--device=cpu")
    assert done.returncode == 0, done.stderr
    assert "9 runs" in done.stdout
    assert done.stdout.count(" 60,000,000 ") == 3
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_rehearsal_that_is_killed_goes_on_and_ends_with_report_and_leaderboard(tmp_path):
    out = tmp_path / "out"
    script = subprocess.Popen([SCRIPT, "--rehearse", out, *FAST], env=environment(), start_new_session=True)
    while script.poll() is None and not list(out.glob("*/checkpoints/stage-02")):
        time.sleep(0.2)
    os.killpg(script.pid, signal.SIGKILL)
    script.wait()
    assert not list(out.glob("*finetune*/checkpoints/stage-01"))

    done = reproduce("--rehearse", str(out), *FAST)
    assert done.returncode == 0, done.stderr
    for agent in AGENTS:
        (run,) = out.glob(f"atari6-{agent}-*")
        config = load_run_config(run)
        assert [task.steps for task in config.tasks] == 6 * [2000]
        assert config.agent.ppo.value_loss == "max"
        assert not config.agent.trunk.task_modulation
        assert (run / "checkpoints" / "stage-06").is_dir()
    assert (out / "report.html").is_file()
    page = (out / "leaderboard.md").read_text(encoding="utf-8")
    assert all(f"| {agent} | 1 |" in page for agent in AGENTS)
    whole = done.stdout[done.stdout.index("dry run") :]
    assert "unknown" not in whole
    assert re.search(r"^time  about \S.* of training with 1 runs at a time, plus evaluations$", whole, re.MULTILINE)
    assert re.search(r"^disk  up to \d.*B, \d.*B in the end", whole, re.MULTILINE)
    assert not (out / "all").exists()
