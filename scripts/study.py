"""Train agents × seeds on one sequence and print ACC, BWT and plasticity: the figures behind our claims.

    python scripts/study.py --agents blip finetune --seeds 5 --out runs/study --table docs/results/x.md
    python scripts/study.py --agents blip --seeds 5 --set method.first_task_bits=3 --label bits3 ...

Runs that already finished in --out are not made again, so a study can be extended.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from blip_rl.core import metrics
from blip_rl.report.load import RunScores, load_scores


def main() -> None:
    arguments = _parser().parse_args()
    jobs = [
        (agent, seed, arguments.out / f"{arguments.label or agent}-seed{seed}")
        for agent in arguments.agents
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    ]
    with ThreadPoolExecutor(arguments.workers) as pool:
        list(pool.map(lambda job: _train(arguments, *job), jobs))
    groups: dict[str, list[RunScores]] = {}
    for agent, _, path in jobs:
        groups.setdefault(arguments.label or agent, []).append(load_scores(path))
    table = _table(groups)
    print(table, flush=True)
    if arguments.table:
        command = "python " + " ".join(sys.argv)
        arguments.table.write_text(f"Command: `{command}`\nCommit: {_commit()}\n\n{table}\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", default="cartpole4")
    parser.add_argument("--agents", nargs="+", default=["blip", "finetune"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--label", help="name of the group, where --set makes another agent of it")
    parser.add_argument("--steps")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument("--table", type=Path)
    return parser


def _train(arguments: argparse.Namespace, agent: str, seed: int, path: Path) -> None:
    if (path / "finished").exists():
        return
    command = [sys.executable, "-m", "blip_rl", "train", "--games", arguments.games, "--agent", agent]
    command += ["--seed", str(seed), "--out", str(path), "--threads", "1", "--quiet", "--device", "cpu"]
    command += ["--steps", arguments.steps] if arguments.steps else []
    command += [part for setting in arguments.set for part in ("--set", setting)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment)
    (path / "finished").touch()


def _table(groups: dict[str, list[RunScores]]) -> str:
    """One row for each agent: mean over seeds, and the single seeds."""
    lines = [
        "| agent | seeds | ACC | ACC of each seed | BWT | learned tasks 2… | raw return at the end |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, runs in groups.items():
        acc = [metrics.average_performance(run.after_normalised) for run in runs]
        bwt = [metrics.backward_transfer(run.after_normalised) for run in runs]
        learned = [float(np.mean(np.diagonal(run.before_normalised)[1:])) for run in runs]
        raw = np.mean([run.after[-1] for run in runs], axis=0)
        lines.append(
            f"| {name} | {len(runs)} | {np.mean(acc):.3f} | {' '.join(f'{a:.2f}' for a in acc)} | {np.mean(bwt):+.3f} "
            f"| {np.mean(learned):.3f} | {' '.join(f'{r:.0f}' for r in raw)} |"
        )
    return "\n".join(lines)


def _commit() -> str:
    return subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
