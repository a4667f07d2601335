"""Measure what PPO reaches on each game of a sequence alone, ``reference_score`` of MinAtar's games.

    python scripts/measure_reference_scores.py minatar5 --seeds 3 --runs runs/minatar-reference

Trains ``agents/single.toml`` on one game at a time with the sequence's settings and steps, all games with one seed
before the next. Finished runs are kept and unfinished ones resumed, so the same command continues after an
interruption. Prints the mean and the standard deviation over seeds of the score at the end, which is the mean return of
--episodes games with the sequence's choice of actions; --table-only prints what is there so far.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from _measure import add_common_options, cell, markdown_table, positive_int, provenance, show

from blip_rl.errors import UserError
from blip_rl.recipes import resolve
from blip_rl.reporting.scores import load_scores

AGENT = "single"


def main() -> None:
    """Train what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sequence", help="its name, as in blip-rl list sequences")
    parser.add_argument("--seeds", type=positive_int, default=3, help="0, 1, … (%(default)s)")
    parser.add_argument("--steps", help="steps of each game (those of the sequence)")
    parser.add_argument("--episodes", type=positive_int, default=100, help="games of the last score (%(default)s)")
    parser.add_argument("--runs", type=Path, required=True, metavar="DIR", help="folder of the runs")
    parser.add_argument("--table-only", action="store_true", help="train nothing, show what is there")
    add_common_options(parser, 1)
    options = parser.parse_args()
    results = {**provenance(), "settings": {key: str(value) for key, value in vars(options).items()}}
    try:
        tasks = [task.name for task in resolve(options.sequence, AGENT, steps=options.steps).tasks]
    except UserError as error:
        print(f"measure_reference_scores.py: error: {error}", file=sys.stderr)
        sys.exit(2)
    if not options.table_only:
        for seed in range(options.seeds):
            for task in tasks:
                _train(task, seed, options)
    results["scores"] = {task: _scores(task, options) for task in tasks}
    rows = [[task, *_row(found)] for task, found in results["scores"].items()]
    head = ["game", "seeds", "mean", "standard deviation", "each seed"]
    show(results, markdown_table(head, rows), options.out)


def _folder(task: str, seed: int, options: argparse.Namespace) -> Path:
    return options.runs / f"{task}-seed{seed}"


def _train(task: str, seed: int, options: argparse.Namespace) -> None:
    run = _folder(task, seed, options)
    if _is_finished(run):
        return
    command = [sys.executable, "-P", "-m", "blip_rl", "train", "--quiet", "--threads", str(options.threads)]
    if (run / "config.toml").exists():
        command += ["--resume", str(run)]
    else:
        command += ["--games", task, "--agent", AGENT, "--seed", str(seed), "--out", str(run), "--device", "cpu"]
        command += ["--set", f"evaluation.episodes={options.episodes}", "--set", "evaluation.every_steps=1G"]
        command += ["--steps", options.steps] if options.steps else []
    begun = time.monotonic()
    subprocess.run(command, check=True)
    print(f"{run.name}: {(time.monotonic() - begun) / 60:.1f} minutes", file=sys.stderr, flush=True)


def _is_finished(run: Path) -> bool:
    return (run / "checkpoints" / "stage-01").is_dir()


def _scores(task: str, options: argparse.Namespace) -> dict[int, float]:
    """Seed → mean return at the end, of the seeds that are finished."""
    runs = {seed: _folder(task, seed, options) for seed in range(options.seeds)}
    return {seed: float(load_scores(run).after[0, 0]) for seed, run in runs.items() if _is_finished(run)}


def _row(found: dict[int, float]) -> list[str]:
    values = list(found.values())
    mean = statistics.mean(values) if values else None
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return [str(len(values)), cell(mean, ".2f"), cell(deviation, ".2f"), " ".join(f"{v:.2f}" for v in values) or "–"]


if __name__ == "__main__":
    main()
