"""Memory of this process: in total, and of the parts that grow by design."""

from __future__ import annotations

import ctypes
import gc
import math
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ale_py import AtariVectorEnv

from blip_rl.config import RunConfig
from blip_rl.learner.policy import ContinualPolicy
from blip_rl.methods.base import parameter_bytes
from blip_rl.tasks import atari
from blip_rl.tasks.games import rom_name
from blip_rl.tasks.make import make_training_env

WARM_UP = 10
_PR_SET_THP_DISABLE = 41


@dataclass(frozen=True)
class Parts:
    """Growth that is no leak of blip-rl.

    Attributes:
        head_objects_kb: Memory of one more head besides its weights: Python's and torch's objects.
        game_kb: Memory that ale-py does not free after a game was opened, played and closed.
    """

    head_objects_kb: float = 0.0
    game_kb: float = 0.0


def measure_parts(config: RunConfig, heads: int, games: int) -> Parts:
    """Measure the growth per head and per game.

    Args:
        config: The recipe whose network and games are used.
        heads: Number of heads that are added to a network.
        games: Number of Atari games that are opened one after another.
    """
    roms = [rom for task in config.tasks if (rom := rom_name(task.game))]
    return Parts(_head_objects_kb(config, heads), _game_kb(roms, games) if roms else 0.0)


def _head_objects_kb(config: RunConfig, heads: int) -> float:
    env = make_training_env(config.tasks[0], config.atari, 1, 0)
    env.close()
    policy = ContinualPolicy(env.observation_space, env.action_space, lambda _: 0.0, trunk=config.agent.trunk)
    each = kb_each(heads, lambda number: policy.add_task(f"task {number}", env.action_space))
    return each - parameter_bytes(policy.tasks[0]) / 1e3


def _game_kb(roms: list[str], games: int) -> float:
    def play(number: int) -> None:
        env = AtariVectorEnv(roms[number % len(roms)], 1)
        env.reset(seed=abs(number))
        for _ in range(20):
            env.step(np.zeros(1, dtype=np.int64))
        env.close()

    return kb_each(games, play)


def kb_each(count: int, make: Callable[[int], object]) -> float:
    """Return the growth of the process per call, in kB, after a few calls to warm up."""
    for number in range(WARM_UP):
        make(-1 - number)
    _, before = held_mb()
    for number in range(count):
        make(number)
    return 1e3 * (held_mb()[1] - before) / count


def held_mb() -> tuple[float, float]:
    """Return the anonymous memory of this process, before and after freed memory is returned to the system."""
    gc.collect()
    before = _filled_mb()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return before, _filled_mb()


def _filled_mb() -> float:
    try:
        match = re.search(r"^RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        match = None
    if match is None:
        sys.exit("this measurement reads /proc, which this system does not have")
    return int(match[1]) * 1024 / 1e6


def in_use_mb() -> float:
    """Return the memory allocated through malloc and not freed, in MB; NaN if the C library does not report it.

    Without fragmentation and cached pages, and without Python's small objects, which have an allocator of their own.
    """
    ask = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if ask is None:
        return math.nan
    ask.restype = _MallocInfo
    found = ask()
    return float(found.uordblks + found.hblkhd) / 1e6


class _MallocInfo(ctypes.Structure):
    """``struct mallinfo2`` of glibc."""

    _fields_: ClassVar = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def refuse_huge_pages() -> bool:
    """Disable transparent huge pages for this process: with pages of 2 MB, resident memory changes in jumps."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    return prctl is not None and prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0


@contextmanager
def counting_games() -> Iterator[Callable[[], int]]:
    """Count the Atari games that blip-rl opens; yields a function that returns the number so far."""
    opened, load = [0], atari.load_emulator

    def load_and_count(rom: str, num_envs: int, *arguments: Any, **options: Any) -> AtariVectorEnv:
        opened[0] += num_envs
        return load(rom, num_envs, *arguments, **options)

    atari.load_emulator = load_and_count
    try:
        yield lambda: opened[0]
    finally:
        atari.load_emulator = load
