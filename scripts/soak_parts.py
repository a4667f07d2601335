"""What soak.py sees grow, taken apart: memory that one more head holds, and that one opened and closed game leaves.

    python scripts/soak_parts.py --out parts.json

A head holds its tensors, which soak.py takes off, and the objects around them, which it does not. A game is ale-py's
AtariVectorEnv alone, opened, played for 20 decisions and closed, with nothing of blip-rl around it.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from _measure import cell, markdown_table, positive_int, provenance, show
from ale_py import AtariVectorEnv
from gymnasium import spaces
from soak import _filled_mb, _give_back

from blip_rl.learner.policy import ContinualPolicy
from blip_rl.methods.base import parameter_bytes
from blip_rl.recipes import resolve

GAMES = ("pong", "boxing", "breakout", "freeway")
WARM_UP = 20


def main() -> None:
    """Measure both, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=positive_int, default=200, help="(%(default)s)")
    parser.add_argument("--games", type=positive_int, default=300, help="opened one after another (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the results as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    policy = _policy()
    tensors_kb = parameter_bytes(policy.tasks[0]) / 1e3
    results = {
        **provenance(),
        "head_kb": _kb_each(options.heads, lambda number: policy.add_task(f"task-{number}", spaces.Discrete(6))),
        "head_tensors_kb": tensors_kb,
        "game_kb": _kb_each(options.games, _open_and_close),
    }
    rows = [
        [f"a head, one of {options.heads}", cell(results["head_kb"], ".1f")],
        ["of which its tensors", cell(tensors_kb, ".1f")],
        [f"a game opened and closed, one of {options.games}", cell(results["game_kb"], ".2f")],
    ]
    show(results, markdown_table(["what", "kB"], rows), options.out)


def _kb_each(count: int, make: Callable[[int], object]) -> float:
    """Growth of the process by each of ``count`` calls, after some that do not count."""
    for number in range(WARM_UP):
        make(-1 - number)
    before = _memory_kb()
    for number in range(count):
        make(number)
    return (_memory_kb() - before) / count


def _memory_kb() -> float:
    gc.collect()
    _give_back()
    return 1e3 * (_filled_mb() or float("nan"))


def _policy() -> ContinualPolicy:
    """The default agent's network over Atari frames, with one head."""
    trunk = resolve("pong", "blip").agent.trunk
    policy = ContinualPolicy(spaces.Box(0, 255, (4, 84, 84), np.uint8), spaces.Discrete(6), lambda _: 0.0, trunk=trunk)
    policy.add_task("first", spaces.Discrete(6))
    return policy


def _open_and_close(number: int) -> None:
    env = AtariVectorEnv(GAMES[number % len(GAMES)], 1)
    env.reset(seed=abs(number))
    for _ in range(20):
        env.step(np.zeros(1, dtype=np.int64))
    env.close()


if __name__ == "__main__":
    main()
