"""Train agents × seeds on one sequence and print a table of ACC, BWT, forgetting, plasticity and cost.

    python scripts/study.py --agents blip finetune --seeds 5 --out runs/study --table docs/results/x.md
    python scripts/study.py --agents blip --seeds 5 --set method.first_task_drift=0.001 --label tight ...

Finished runs in --out are not repeated, so a study can be extended. The folder of an unfinished run is renamed to
NAME.broken-1 and the run is made again, so two studies at the same time must not share agents, seeds and --out. A run
that fails is listed with its command, does not affect the others, and makes the exit code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blip_rl.core import metrics
from blip_rl.core.intervals import describe, estimate
from blip_rl.errors import UserError
from blip_rl.formatting import score_text
from blip_rl.reporting.scores import RunScores, load_config, load_scores
from blip_rl.reporting.sequences import differences
from blip_rl.shell import shell_command

NOTES = """ACC: mean over tasks of the normalised score at the end. Its 95 % interval over seeds: Student's of the mean
with three to nine seeds, the bootstrap of the interquartile mean with ten or more, none with fewer than three. Whole
runs are drawn, not scores: tasks of one run share a trunk and are not independent, and an interquartile mean over
seeds × tasks would cut off the very task that a forgetful agent still plays, the last.
Forgetting: best score on a task since it was learned − score at the end, mean over all tasks but the last.
Learned: score just after learning, mean over all tasks but the first. Minutes: mean of a run.
Memory: the most that one run's process held. –: not defined or not measured."""


@dataclass(frozen=True)
class Job:
    """One run of the study."""

    group: str
    agent: str
    seed: int
    path: Path


@dataclass(frozen=True)
class Cost:
    """Time and memory of a run; ``cost.json`` in its folder."""

    minutes: float
    peak_memory_mb: float


Run = tuple[RunScores, Cost | None]


def main() -> None:
    arguments = _parse()
    os.nice(arguments.nice)  # inherited by the runs
    jobs = _jobs(arguments)
    with ThreadPoolExecutor(arguments.workers) as pool:
        failures = [failure for failure in pool.map(lambda job: _made(arguments, job), jobs) if failure]
    groups, unread = _collected([job for job in jobs if (job.path / "finished").exists()])
    failures += unread
    table = f"{_table(groups)}\n\n{_actions(groups)}\n{NOTES}\n" if groups else f"{_table(groups)}\n\n{NOTES}\n"
    print(table, flush=True)
    if arguments.table:
        head = f"Command: `python {shell_command(*sys.argv)}`\nCommit: {_commit()}\n\n"
        missing = "".join(f"\nNot in the table: {failure}\n" for failure in failures)
        arguments.table.write_text(head + table + missing, encoding="utf-8")
    for failure in failures:
        print(failure, file=sys.stderr)
    sys.exit(1 if failures else 0)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", default="cartpole4")
    parser.add_argument("--agents", nargs="+", default=["blip", "finetune"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--label", help="name of the group, where --set makes another agent of it")
    parser.add_argument("--steps")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--nice", type=int, default=0, metavar="N", help="lower the runs' priority by N, 0 to 19")
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    if arguments.label and len(arguments.agents) > 1:
        parser.error("--label names one group: give it with one agent")
    if arguments.seeds < 1 or arguments.workers < 1 or not 0 <= arguments.nice <= 19:
        parser.error("expected --seeds and --workers of at least 1, and --nice of 0 to 19")
    return arguments


def _jobs(arguments: argparse.Namespace) -> list[Job]:
    """Return a job per agent and seed."""
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    groups = {agent: arguments.label or Path(agent).stem for agent in arguments.agents}
    return [
        Job(group, agent, seed, arguments.out / f"{group}-seed{seed}")
        for agent, group in groups.items()
        for seed in seeds
    ]


def _made(arguments: argparse.Namespace, job: Job) -> str | None:
    """Train unless the run is finished; return the error message, or None."""
    if (job.path / "finished").exists():
        return None
    if os.path.lexists(job.path):
        aside = _aside(job.path)
        job.path.rename(aside)
        print(f"'{job.path}' was not finished: kept as '{aside}'", file=sys.stderr)
    command = _command(arguments, job)
    code, cost = _measured(command)
    if code:
        return f"run failed (exit code {code}): {shell_command(*command)}"
    (job.path / "cost.json").write_text(json.dumps(asdict(cost)) + "\n", encoding="utf-8")
    (job.path / "finished").touch()
    return None


def _aside(path: Path) -> Path:
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}.broken-{number}")):
        number += 1
    return aside


def _command(arguments: argparse.Namespace, job: Job) -> list[str]:
    command = [sys.executable, "-m", "blip_rl", "train", "--games", arguments.games, "--agent", job.agent]
    command += ["--seed", str(job.seed), "--out", str(job.path), "--threads", "1", "--quiet", "--device", "cpu"]
    command += ["--steps", arguments.steps] if arguments.steps else []
    return command + [part for setting in arguments.set for part in ("--set", setting)]


def _measured(command: list[str]) -> tuple[int, Cost]:
    """Run a command; return its exit code (negative: the signal that killed it) and its cost."""
    start = time.perf_counter()
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    # os.wait4 reports the peak memory of this child alone. On Linux it starts at the memory of this process, which is
    # small as long as nothing here imports torch.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    unit = 1e6 if sys.platform == "darwin" else 1e6 / 1024  # Linux counts KiB, macOS bytes
    return process.returncode, Cost((time.perf_counter() - start) / 60, usage.ru_maxrss / unit)


def _collected(jobs: list[Job]) -> tuple[dict[str, list[Run]], list[str]]:
    """Read finished runs by group; return the error messages of those that cannot be read too."""
    groups: dict[str, list[Run]] = {}
    unread: list[str] = []
    first: tuple[Path, dict[str, Any]] | None = None
    for job in jobs:
        try:
            scores, cost = load_scores(job.path), _read_cost(job.path)
            config = load_config(job.path)
        except UserError as error:
            unread.append(str(error))
            continue
        first = first or (job.path, config)
        if differing := differences(first[1], config):
            unread.append(
                f"'{job.path}' and '{first[0]}' differ in {', '.join(differing)}: give each sequence its own --out"
            )
        else:
            groups.setdefault(job.group, []).append((scores, cost))
    return groups, unread


def _read_cost(path: Path) -> Cost | None:
    """Return None for runs of versions without ``cost.json``."""
    try:
        return Cost(**json.loads((path / "cost.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise UserError(f"'{path / 'cost.json'}' cannot be read: {error}; delete it, or make the run again") from error


def _table(groups: dict[str, list[Run]]) -> str:
    """Return a row per agent: metrics over seeds, and the ACC of each seed."""
    heads = [
        "agent",
        "seeds",
        "ACC [95 % interval]",
        "ACC: mean",
        "ACC of each seed",
        "BWT",
        "forgetting",
        "learned tasks 2…",
    ]
    heads += ["minutes", "memory MB", "raw return at the end"]
    rows = [heads, ["---"] * len(heads)]
    rows += [
        [name, str(len(runs)), *_score_cells(runs), *_cost_cells(runs), _raw_cell(runs)]
        for name, runs in groups.items()
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _score_cells(runs: list[Run]) -> list[str]:
    matrices = [scores.after_normalised for scores, _ in runs]
    acc = [metrics.average_performance(matrix) for matrix in matrices]
    return [
        _interval_cell(acc),
        _mean(acc),
        " ".join(_number(value) for value in acc),
        _mean([metrics.backward_transfer(matrix) for matrix in matrices], signed=True),
        _mean([metrics.mean_forgetting(matrix) for matrix in matrices]),
        _mean([metrics.learned_later(matrix) for matrix in matrices]),
    ]


def _interval_cell(acc: list[float]) -> str:
    found = estimate(acc)
    if found.interval is None:
        return "–"
    low, high = found.interval
    return f"{_number(found.centre)} [{_number(low)}, {_number(high)}] ({describe(len(acc))})"


def _cost_cells(runs: list[Run]) -> list[str]:
    costs = [cost for _, cost in runs if cost is not None]
    if not costs:
        return ["–", "–"]
    return [f"{np.mean([cost.minutes for cost in costs]):.1f}", f"{max(cost.peak_memory_mb for cost in costs):.0f}"]


def _actions(groups: dict[str, list[Run]]) -> str:
    """Return how the actions were chosen; a run never averages greedy and stochastic scores."""
    kinds = {name: " and ".join(sorted({scores.actions for scores, _ in runs})) for name, runs in groups.items()}
    if len(set(kinds.values())) == 1:
        return f"Actions: {next(iter(kinds.values()))}."
    return f"Actions differ, and so do not compare: {', '.join(f'{name} {kind}' for name, kind in kinds.items())}."


def _raw_cell(runs: list[Run]) -> str:
    end = np.mean([scores.after[-1] for scores, _ in runs], axis=0)
    return " ".join(_number(value) for value in end.tolist())


def _mean(values: list[float], *, signed: bool = False) -> str:
    return _number(float(np.mean(values)), signed=signed)


def _number(value: float, *, signed: bool = False) -> str:
    return "–" if np.isnan(value) else score_text(value, signed=signed)


def _commit() -> str:
    return subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
