"""Learn many short tasks in one process and measure its memory after each, to find leaks.

    python scripts/soak.py --games pong,boxing,breakout,freeway --switches 100 --steps 512 --out soak.json
    python scripts/soak.py --games CartPole-v1 --switches 200 --steps 256 --out soak-cartpole.json

The games take turns, each time as a new task with its own head (CartPole with another mix of its observations). Memory,
open files and threads are measured after each task, just after its checkpoint is saved. Expected growth is subtracted:
heads and the state of the method, computed from their tensors; the Python objects of a head; and what ale-py does not
free of each game that is opened and closed (every task seen is, twice at each boundary). The last two are measured
first, separately. Only the newest checkpoint is kept on disk. Growth is measured from the third switch on.

Memory is anonymous resident memory: the system may evict and reload pages of programs and libraries. Memory that the C
library has freed but keeps varies by some hundred MB, so it is returned to the system before each measurement and shown
separately. Partly used pages cannot be returned, so the memory in use by malloc is shown too: if memory grows and that
does not, the heap is fragmented. Transparent huge pages are disabled.
Exit code 1 if memory grew by more than 1 % or if files or threads were left open.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from _held_memory import Parts, counting_games, held_mb, in_use_mb, measure_parts, refuse_huge_pages
from _measure import cell, markdown_table, positive_int, provenance, show

from blip_rl.learner.policy import ContinualPolicy
from blip_rl.methods.base import Method
from blip_rl.recipes import resolve, split_names
from blip_rl.run import train as train_module
from blip_rl.storage.atomic import Check
from blip_rl.tasks.games import rom_name

SETTLED = 3
"""Growth is measured from this switch on."""
MOST_GROWTH_PERCENT = 1.0
SMALL = (
    "ppo.environments=8",
    "ppo.rollout_steps=64",
    "ppo.minibatches=4",
    "evaluation.episodes=1",
    "evaluation.max_episode_steps=20",
    "evaluation.every_steps=256",
    "checkpoint.every_steps=256",
)


@dataclass(frozen=True)
class Moment:
    """Memory, files and threads of the process after a task."""

    task: str
    seconds: float
    memory_mb: float
    kept_for_later_mb: float
    agent_mb: float
    files: int
    threads: int
    checkpoint_mb: float
    games_opened: int = 0
    in_use_mb: float | None = None


def main() -> None:
    """Learn, measure, judge."""
    options = _options()
    torch.set_num_threads(1)
    refuse_huge_pages()
    results = {**provenance(), "settings": {k: str(v) if k == "out" else v for k, v in vars(options).items()}}
    with tempfile.TemporaryDirectory(prefix="blip-rl-soak-") as folder:
        moments, parts = _learn(options, Path(folder), results)
    verdict = judge(moments, parts)
    show(results | verdict, _report(moments, parts, verdict), options.out)
    sys.exit(bool(verdict["faults"]))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", default="pong,boxing,breakout,freeway", help="taken in turn (%(default)s)")
    parser.add_argument("--switches", type=positive_int, default=100, help="tasks learned (%(default)s)")
    parser.add_argument("--steps", type=positive_int, default=512, help="of every task (%(default)s)")
    parser.add_argument("--agent", default="blip", help="(%(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in blip-rl train")
    parser.add_argument(
        "--parts",
        type=positive_int,
        default=400,
        metavar="N",
        help="heads, and games, to measure by themselves (%(default)s)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the results as JSON, after every task")
    return parser.parse_args()


def sequence_text(games: tuple[str, ...], switches: int, steps: int) -> str:
    """Return the recipe of a sequence in which the games take turns."""
    tasks = []
    for number in range(switches):
        game = games[number % len(games)]
        lines = ["[[tasks]]", f'name = "task-{number + 1}"', f"game = {json.dumps(game)}", f"steps = {steps}"]
        tasks.append("\n".join(lines if rom_name(game) else [*lines, f"observation_mix_seed = {number + 1}"]))
    return "\n\n".join(['description = "soak"', *tasks]) + "\n"


def _learn(options: argparse.Namespace, folder: Path, results: dict[str, Any]) -> tuple[list[Moment], Parts]:
    """Train the sequence, and measure just after each checkpoint is saved."""
    recipe = folder / "soak.toml"
    recipe.write_text(sequence_text(split_names(options.games), options.switches, options.steps), encoding="utf-8")
    config = resolve(str(recipe), options.agent, overrides=(*SMALL, *options.set))
    parts = measure_parts(config, options.parts, options.parts)
    results["parts"] = asdict(parts)
    moments, begun, save = list[Moment](), time.monotonic(), train_module.save_stage

    def save_and_measure(
        path: Path, stage: int, steps: int, policy: ContinualPolicy, method: Method, check: Check
    ) -> None:
        save(path, stage, steps, policy, method, check)
        kept = sum(file.stat().st_size for file in path.iterdir()) / 1e6
        shutil.rmtree(path.with_name(f"stage-{stage - 1:02d}"), ignore_errors=True)
        moment = _moment(config.tasks[stage - 1].name, time.monotonic() - begun, policy, method, kept)
        moments.append(replace(moment, games_opened=opened()))
        results["moments"] = [asdict(moment) for moment in moments]
        if options.out is not None:
            options.out.write_text(json.dumps(results | judge(moments, parts), indent=1) + "\n", encoding="utf-8")

    train_module.save_stage = save_and_measure
    try:
        with counting_games() as opened:
            train_module.train(config, out=folder / "run", threads=1, quiet=True)
    finally:
        train_module.save_stage = save
    return moments, parts


def _moment(task: str, seconds: float, policy: ContinualPolicy, method: Method, checkpoint_mb: float) -> Moment:
    before, memory = held_mb()
    in_use = in_use_mb()
    tensors = [*policy.task_state().values(), *method.state().tensors.values()]
    return Moment(
        task=task,
        seconds=round(seconds, 1),
        memory_mb=memory,
        kept_for_later_mb=before - memory,
        agent_mb=sum(tensor.nbytes for tensor in tensors) / 1e6,
        files=_entries("/proc/self/fd"),
        threads=_entries("/proc/self/task"),
        checkpoint_mb=checkpoint_mb,
        in_use_mb=None if math.isnan(in_use) else in_use,
    )


def _entries(folder: str) -> int:
    return len(list(Path(folder).iterdir()))


def judge(moments: list[Moment], parts: Parts) -> dict[str, Any]:
    """Return the growth from the third switch to the last, its expected parts, and the faults."""
    if len(moments) <= SETTLED:
        return {"growth_percent": None, "faults": [f"{len(moments)} switches: growth counts after {SETTLED}"]}
    first, last = moments[SETTLED - 1], moments[-1]
    objects = (len(moments) - SETTLED) * parts.head_objects_kb / 1e3
    by_design = last.agent_mb - first.agent_mb + objects
    left_by_games = (last.games_opened - first.games_opened) * parts.game_kb / 1e3
    growth = last.memory_mb - first.memory_mb
    percent = 100 * (growth - by_design - left_by_games) / first.memory_mb
    faults = [f"memory grew by {percent:.2f} %"] if percent > MOST_GROWTH_PERCENT else []
    faults += [
        f"{getattr(last, name) - getattr(first, name)} more {name}"
        for name in ("files", "threads")
        if getattr(last, name) > getattr(first, name)
    ]
    return {
        "growth_mb": growth,
        "growth_by_design_mb": by_design,
        "left_by_games_mb": left_by_games,
        "growth_percent": percent,
        "in_use_growth_mb": None if None in (first.in_use_mb, last.in_use_mb) else last.in_use_mb - first.in_use_mb,
        "faults": faults,
    }


def _report(moments: list[Moment], parts: Parts, verdict: dict[str, Any]) -> str:
    header = ["switch", "memory MB", "freed but kept MB", "agent MB", "in use MB", "games opened", "files", "threads"]
    shown = sorted(
        {1, 2, SETTLED, *(len(moments) * part // 8 for part in range(1, 9))} & set(range(1, len(moments) + 1))
    )
    rows = [
        [
            str(n),
            cell(m.memory_mb, ".1f"),
            cell(m.kept_for_later_mb),
            cell(m.agent_mb, ".2f"),
            cell(m.in_use_mb, ".2f"),
            f"{m.games_opened:,}",
            f"{m.files}",
            f"{m.threads}",
        ]
        for n, m in ((n, moments[n - 1]) for n in shown)
    ]
    grew = verdict["growth_percent"]
    text = "not measured"
    if grew is not None:
        text = (
            f"{verdict['growth_mb']:.2f} MB, of which {verdict['growth_by_design_mb']:.2f} by design (heads' weights, "
            f"and {parts.head_objects_kb:.1f} kB of objects around those of each) and "
            f"{verdict['left_by_games_mb']:.2f} left by games ({parts.game_kb:.2f} kB each); the rest is {grew:.2f} %"
        )
    faults = "; ".join(verdict["faults"]) or "none"
    return f"{markdown_table(header, rows)}\n\nGrowth after switch {SETTLED}: {text}. Faults: {faults}."


if __name__ == "__main__":
    main()
