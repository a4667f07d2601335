"""Learn many short tasks in one process, and measure after each what the process holds: a leak shows as growth.

    python scripts/soak.py --games pong,boxing,breakout,freeway --switches 100 --steps 512 --out soak.json
    python scripts/soak.py --games CartPole-v1 --switches 200 --steps 256 --out soak-cartpole.json

The games take turns, each time as a new task with a head of its own (CartPole with its observations mixed anew). After
each task, at the same line of the program, come memory, open files and threads. What grows by design is counted from
the tensors themselves and taken off: heads and what the method remembers (a head of an Atari game is 40 kB). On the
disk checkpoints add up, of which only the newest is kept here, and the tables; in memory the score matrix grows, by a
few bytes for each pair of tasks. Growth counts from the third switch on.

Memory is what the process itself has filled: a system short of memory takes the pages of programs and libraries away
and brings them back. What was freed but is kept for later by the C library goes up and down by some hundred MB: it is
given back before each measurement, and shown beside it.
Exit code 1 if memory grew by more than 1 % or if a file or a thread was left behind.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import re
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from _measure import cell, markdown_table, positive_int, provenance, show

from blip_rl.learner.policy import ContinualPolicy
from blip_rl.methods.base import Method
from blip_rl.recipes import resolve, split_names
from blip_rl.run import sequence
from blip_rl.tasks.games import rom_name

SETTLED = 3
"""Switches after which growth counts."""
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
    """What the process held after a task."""

    task: str
    seconds: float
    memory_mb: float
    kept_for_later_mb: float
    agent_mb: float
    files: int
    threads: int
    checkpoint_mb: float


def main() -> None:
    """Learn, measure, judge."""
    options = _options()
    torch.set_num_threads(1)
    results = {**provenance(), "settings": {k: str(v) if k == "out" else v for k, v in vars(options).items()}}
    with tempfile.TemporaryDirectory(prefix="blip-rl-soak-") as folder:
        moments = _learn(options, Path(folder), results)
    verdict = judge(moments)
    show(results | verdict, _report(moments, verdict), options.out)
    sys.exit(bool(verdict["faults"]))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", default="pong,boxing,breakout,freeway", help="taken in turn (%(default)s)")
    parser.add_argument("--switches", type=positive_int, default=100, help="tasks learned (%(default)s)")
    parser.add_argument("--steps", type=positive_int, default=512, help="of every task (%(default)s)")
    parser.add_argument("--agent", default="blip", help="(%(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in blip-rl train")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the results as JSON, after every task")
    return parser.parse_args()


def sequence_text(games: tuple[str, ...], switches: int, steps: int) -> str:
    """The recipe of a sequence in which the games take turns."""
    tasks = []
    for number in range(switches):
        game = games[number % len(games)]
        lines = ["[[tasks]]", f'name = "task-{number + 1}"', f"game = {json.dumps(game)}", f"steps = {steps}"]
        tasks.append("\n".join(lines if rom_name(game) else [*lines, f"observation_mix_seed = {number + 1}"]))
    return "\n\n".join(['description = "soak"', *tasks]) + "\n"


def _learn(options: argparse.Namespace, folder: Path, results: dict[str, Any]) -> list[Moment]:
    """Run the sequence, and measure where every stage has just been saved."""
    recipe = folder / "soak.toml"
    recipe.write_text(sequence_text(split_names(options.games), options.switches, options.steps), encoding="utf-8")
    config = resolve(str(recipe), options.agent, overrides=(*SMALL, *options.set))
    moments, begun, save = list[Moment](), time.monotonic(), sequence.save_stage

    def save_and_measure(path: Path, stage: int, steps: int, policy: ContinualPolicy, method: Method) -> None:
        save(path, stage, steps, policy, method)
        kept = sum(file.stat().st_size for file in path.iterdir()) / 1e6
        shutil.rmtree(path.with_name(f"stage-{stage - 1:02d}"), ignore_errors=True)
        moments.append(_moment(config.tasks[stage - 1].name, time.monotonic() - begun, policy, method, kept))
        results["moments"] = [asdict(moment) for moment in moments]
        if options.out is not None:
            options.out.write_text(json.dumps(results | judge(moments), indent=1) + "\n", encoding="utf-8")

    sequence.save_stage = save_and_measure
    try:
        sequence.train(config, out=folder / "run", threads=1, quiet=True)
    finally:
        sequence.save_stage = save
    return moments


def _moment(task: str, seconds: float, policy: ContinualPolicy, method: Method, checkpoint_mb: float) -> Moment:
    gc.collect()
    before = _filled_mb()
    _give_back()
    memory = _filled_mb()
    if before is None or memory is None:
        sys.exit("soak.py reads /proc, which this system does not have")
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
    )


def _filled_mb() -> float | None:
    """Memory of this process that no file stands behind; None where there is no /proc."""
    try:
        match = re.search(r"^RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return None
    return int(match[1]) * 1024 / 1e6 if match else None


def _give_back() -> None:
    """Have the C library return what was freed, where it is one that can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _entries(folder: str) -> int:
    return len(list(Path(folder).iterdir()))


def judge(moments: list[Moment]) -> dict[str, Any]:
    """Growth from the third switch to the last, and what is wrong with it."""
    if len(moments) <= SETTLED:
        return {"growth_percent": None, "faults": [f"{len(moments)} switches: growth counts after {SETTLED}"]}
    first, last = moments[SETTLED - 1], moments[-1]
    by_design = last.agent_mb - first.agent_mb
    growth = last.memory_mb - first.memory_mb
    percent = 100 * (growth - by_design) / first.memory_mb
    faults = [f"memory grew by {percent:.2f} %"] if percent > MOST_GROWTH_PERCENT else []
    faults += [
        f"{getattr(last, name) - getattr(first, name)} more {name}"
        for name in ("files", "threads")
        if getattr(last, name) > getattr(first, name)
    ]
    return {"growth_mb": growth, "growth_by_design_mb": by_design, "growth_percent": percent, "faults": faults}


def _report(moments: list[Moment], verdict: dict[str, Any]) -> str:
    header = ["switch", "memory MB", "freed but kept MB", "agent MB", "files", "threads"]
    shown = sorted(
        {1, 2, SETTLED, *(len(moments) * part // 8 for part in range(1, 9))} & set(range(1, len(moments) + 1))
    )
    rows = [
        [
            str(n),
            cell(m.memory_mb, ".1f"),
            cell(m.kept_for_later_mb),
            cell(m.agent_mb, ".2f"),
            f"{m.files}",
            f"{m.threads}",
        ]
        for n, m in ((n, moments[n - 1]) for n in shown)
    ]
    grew = verdict["growth_percent"]
    text = (
        "not measured" if grew is None else f"{grew:.2f} %, {verdict['growth_by_design_mb']:.2f} MB by design left out"
    )
    faults = "; ".join(verdict["faults"]) or "none"
    return f"{markdown_table(header, rows)}\n\nGrowth after switch {SETTLED}: {text}. Faults: {faults}."


if __name__ == "__main__":
    main()
