"""The study runs as a user would run it, on problems that take seconds, and on runs made by hand."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from blip_rl.core.intervals import student_interval

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
SMALL_RUN = ["ppo.environments=2", "ppo.rollout_steps=32", "ppo.minibatches=2", "ppo.epochs=1", "evaluation.episodes=1"]


def run_study(*options, cwd):
    """Exit code, table rows as cells by agent, and what went to standard error."""
    command = [sys.executable, SCRIPTS / "study.py", *options, "--out", "study"]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    return done.returncode, table_rows(done.stdout), done.stderr


def table_rows(text):
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[2:]}


def test_a_study_reuses_finished_runs_and_continues_after_a_failure(tmp_path):
    options = ["--games", "cartpole-a,cartpole-b", "--steps", "64", "--seeds", "1", "--nice", "1", "--table", "t.md"]
    options += [part for change in SMALL_RUN for part in ("--set", change)]
    (tmp_path / "study" / "finetune-seed0").mkdir(parents=True)  # as a run leaves it that was killed
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(
        ["git", "-c", "user.name=x", "-c", "user.email=x", "commit", "-q", "--allow-empty", "-m", "x"],
        cwd=tmp_path,
        check=True,
    )
    code, rows, errors = run_study("--agents", "nosuch", "finetune", *options, cwd=tmp_path)
    assert code == 1
    assert "-m blip_rl train --games cartpole-a,cartpole-b --agent nosuch --seed 0" in errors
    assert list(rows) == ["finetune"]
    assert "Not in the table: run failed (exit code 2)" in (tmp_path / "t.md").read_text(encoding="utf-8")
    path = tmp_path / "study" / "finetune-seed0"
    assert (tmp_path / "study" / "finetune-seed0.broken-1").is_dir()
    cost = json.loads((path / "cost.json").read_text(encoding="utf-8"))
    assert 0 < cost["minutes"] < 2
    assert 150 < cost["peak_memory_mb"] < 4000  # torch and two games
    assert rows["finetune"]["memory MB"] == f"{cost['peak_memory_mb']:.0f}"
    made = (path / "scores.csv").stat().st_mtime_ns
    code, again, errors = run_study("--agents", "finetune", *options, cwd=tmp_path)
    assert (code, again, errors) == (0, rows, "")
    assert (path / "scores.csv").stat().st_mtime_ns == made


@pytest.fixture
def study(monkeypatch, tmp_path):
    """The script as a module, in an empty folder."""
    spec = importlib.util.spec_from_file_location("study", SCRIPTS / "study.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "study", module)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    return module


# Normalised scores of a run, by agent and seed: two tasks, learned one after the other or together.
SCORES = {
    "keeper": [[[0.9, None], [0.8, 0.6]], [[0.5, None], [0.7, 0.2]], [[1.0, None], [0.4, 0.4]]],
    "together": [[[None, None], [0.5, 0.25]], [[None, None], [0.75, 0.5]]],
}
WRITE_RUN = """
import json, sys
from pathlib import Path
path, matrix, code = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
path.mkdir(parents=True)
config = ['agent_name = "x"', "seed = 0", "[[tasks]]", 'name = "a"', "[[tasks]]", 'name = "b"']
(path / "config.toml").write_text("\\n".join(config))
rows = ["env_steps,stage,phase,task,seed,return,length_steps,truncated,normalised,actions"]
for stage, scores in enumerate(matrix, start=1):
    for task, score in zip("ab", scores):
        if score is not None:
            rows.append(f"{stage},{stage},after,{task},0,{100 * score},1,0,{score},greedy")
(path / "scores.csv").write_text("\\n".join(rows) + "\\n")
sys.exit(code)
"""


@pytest.fixture
def stand_in(study, monkeypatch):
    """Runs that are written, not learned; ``--set AGENT:SEED`` makes one fail."""

    def command(arguments, job):
        code = 3 if f"{job.agent}:{job.seed}" in arguments.set else 0
        matrix = json.dumps(SCORES[job.agent][job.seed])
        return [sys.executable, "-c", WRITE_RUN, str(job.path), matrix, str(code)]

    monkeypatch.setattr(study, "_command", command)

    def call(capsys, *options):
        monkeypatch.setattr(sys, "argv", ["study.py", "--workers", "2", "--out", "study", *options])
        with pytest.raises(SystemExit) as end:
            study.main()
        printed = capsys.readouterr()
        return end.value.code, table_rows(printed.out), printed.err

    return call


def test_the_table_by_hand(stand_in, capsys):
    code, rows, errors = stand_in(capsys, "--agents", "keeper", "--seeds", "3")
    assert (code, errors) == (0, "")
    row = rows["keeper"]
    acc = [0.7, 0.45, 0.4]  # (0.8 + 0.6) / 2, (0.7 + 0.2) / 2, (0.4 + 0.4) / 2
    low, high = student_interval(acc)
    assert row["ACC [95 % interval]"] == f"0.517 [{low:.3f}, {high:.3f}] (mean, 95 % Student interval)"  # 1.55 / 3
    assert row["ACC: mean"] == "0.517"
    assert row["ACC of each seed"] == "0.700 0.450 0.400"
    assert row["BWT"] == "-0.167"  # (−0.1 + 0.2 − 0.6) / 3
    assert row["forgetting"] == "0.233"  # (0.1 + 0 + 0.6) / 3: what a task has gained is not forgetting
    assert row["learned tasks 2…"] == "0.400"  # (0.6 + 0.2 + 0.4) / 3
    assert row["raw return at the end"] == "63.3 40.0"  # (80 + 70 + 40) / 3, (60 + 20 + 40) / 3
    costs = [json.loads(Path(f"study/keeper-seed{n}/cost.json").read_text(encoding="utf-8")) for n in range(3)]
    assert row["memory MB"] == f"{max(cost['peak_memory_mb'] for cost in costs):.0f}"


def test_metrics_of_tasks_learned_together_and_intervals_of_few_seeds_are_undefined(stand_in, capsys):
    _, rows, _ = stand_in(capsys, "--agents", "together", "--seeds", "2")
    row = rows["together"]
    assert (row["ACC [95 % interval]"], row["ACC: mean"], row["ACC of each seed"]) == ("–", "0.500", "0.375 0.625")
    assert [row[name] for name in ("BWT", "forgetting", "learned tasks 2…")] == ["–"] * 3


def test_each_run_is_measured_by_itself():
    """Two at a time, in a process of its own: a child's peak starts at its parent's memory, and pytest's is large."""
    script = """
import sys
from concurrent.futures import ThreadPoolExecutor
from study import _measured
hold = "import time; held = b'x' * ({} * 10**6); time.sleep({}); sys.exit({})"
runs = [[sys.executable, "-c", "import sys; " + hold.format(*run)] for run in ((300, 0, 0), (100, 1.2, 0), (200, 0, 3))]
for code, cost in ThreadPoolExecutor(2).map(_measured, runs):
    print(code, cost.peak_memory_mb, cost.minutes)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=SCRIPTS, capture_output=True, text=True, check=True)
    runs = [tuple(map(float, line.split())) for line in done.stdout.splitlines()]
    assert [code for code, _, _ in runs] == [0, 0, 3]
    for held, (_, peak, _) in zip((300, 100, 200), runs, strict=True):
        assert held < peak < held + 60
    assert 0.02 <= runs[1][2] < 0.2  # 1.2 seconds and a start


def test_a_seed_that_fails_is_left_out_and_made_again(stand_in, capsys):
    code, rows, errors = stand_in(capsys, "--agents", "keeper", "--seeds", "3", "--set", "keeper:1")
    assert code == 1
    assert "run failed (exit code 3)" in errors
    assert "study/keeper-seed1" in errors
    assert rows["keeper"]["ACC of each seed"] == "0.700 0.400"
    assert not Path("study/keeper-seed1/finished").exists()
    # Again, and now it works: what the failure left is kept under another name.
    code, rows, errors = stand_in(capsys, "--agents", "keeper", "--seeds", "3")
    assert code == 0
    assert "kept as 'study/keeper-seed1.broken-1'" in errors
    assert rows["keeper"]["ACC of each seed"] == "0.700 0.450 0.400"
    assert Path("study/keeper-seed1.broken-1/scores.csv").exists()


def test_runs_of_different_sequences_are_not_averaged(stand_in, capsys):
    stand_in(capsys, "--agents", "keeper", "--seeds", "2")
    config = Path("study/keeper-seed1/config.toml")
    config.write_text(config.read_text(encoding="utf-8").replace('"b"', '"c"'), encoding="utf-8")
    scores = Path("study/keeper-seed1/scores.csv")
    scores.write_text(scores.read_text(encoding="utf-8").replace(",b,", ",c,"), encoding="utf-8")
    code, rows, errors = stand_in(capsys, "--agents", "keeper", "--seeds", "2")
    assert code == 1
    assert "'study/keeper-seed1' and 'study/keeper-seed0' differ in games: give each sequence its own --out" in errors
    assert rows["keeper"]["seeds"] == "1"
