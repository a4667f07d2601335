"""The scripts and the notebook of ``examples/`` run, with few steps."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def run(words, folder):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def output(words, folder):
    done = run(words, folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_train_and_plot_writes_the_plot(tmp_path):
    printed = output([EXAMPLES / "train_and_plot.py", "--steps", 1024, "--out", "run"], tmp_path)
    assert "Metrics(acc=" in printed
    assert (tmp_path / "run" / "scores.png").stat().st_size > 5_000


def test_protect_ppo_prints_both_tasks_after_each(tmp_path):
    lines = output([EXAMPLES / "protect_ppo.py", "--steps", 1024], tmp_path).splitlines()
    assert [line.split(":")[0] for line in lines] == ["after CartPole", "after long pole"]
    assert all("bits frozen on average" in line for line in lines)


def test_play_prints_the_return_of_each_episode(finished_run, tmp_path):
    lines = output([EXAMPLES / "play.py", finished_run, "--game", "cartpole-a", "--episodes", 2], tmp_path).splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("cartpole-a after stage 2, seed 1: ")
    assert run([EXAMPLES / "play.py", "nowhere"], tmp_path).stderr.startswith("Error: folder 'nowhere' does not exist")


def notebook():
    return json.loads((EXAMPLES / "quickstart.ipynb").read_text(encoding="utf-8"))


def test_the_notebook_is_valid_and_has_no_outputs():
    read = notebook()
    assert (read["nbformat"], read["nbformat_minor"]) == (4, 5)
    cells = read["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells)
    assert {cell["cell_type"] for cell in cells} == {"code", "markdown"}
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells if "outputs" in cell)


@pytest.mark.slow
def test_the_code_of_the_notebook_runs(tmp_path):
    code = "\n".join("".join(cell["source"]) for cell in notebook()["cells"] if cell["cell_type"] == "code")
    (tmp_path / "code.py").write_text(code.replace("STEPS = 60_000", "STEPS = 1024"), encoding="utf-8")
    printed = output(["code.py"], tmp_path)
    assert "blip Metrics(acc=" in printed
    assert (tmp_path / "runs" / "quickstart-report" / "report.html").is_file()
