"""Measure the share of a run's time that goes into TensorBoard: scalars, heatmaps and videos.

    python scripts/benchmark_logging.py --steps 20k --threads 2

Trains one game with BLIP in this process and adds up the time in the logger, in the heatmaps and histograms of frozen
bits, and with ``--films`` in the videos at the end of a task (which play the game again). Times are processor times of
the process, so that other load on the machine matters little. Heatmaps and videos are made once per task, so their
share is large in a short run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from _measure import add_common_options, markdown_table, provenance, show
from stable_baselines3.common.logger import Logger

from blip_rl.recipes import resolve
from blip_rl.run import consolidation
from blip_rl.run import train as train_module
from blip_rl.video import tensorboard

PARTS = {
    "scalars": [(Logger, "record"), (Logger, "dump")],
    "heatmaps and histograms": [(consolidation, "log_bits")],
    "films": [(tensorboard, "log_boundary_gifs")],
    "layout and settings": [(train_module, "LockedEventFile")],
}


class Clock:
    """Accumulates processor seconds per part; nested parts count for the outer one."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._within = False

    def around(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with a timer."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._within:
                return function(*args, **kwargs)
            self._within, begun = True, time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self._within = False
                self.seconds[part] += time.process_time() - begun

        return timed


@contextmanager
def watched(clock: Clock) -> Iterator[None]:
    """Time every part within the block."""
    with ExitStack() as stack:
        for part, places in PARTS.items():
            for owner, name in places:
                timed = clock.around(part, getattr(owner, name))
                stack.enter_context(mock.patch.object(owner, name, timed))
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", default="boxing")
    parser.add_argument("--steps", default="20k")
    parser.add_argument(
        "--films", action="store_true", help="also record videos at the end of the task (evaluation.gifs)"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as for blip-rl train")
    add_common_options(parser, repeats=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    films = [f"evaluation.gifs={'true' if options.films else 'false'}"]
    config = resolve(options.game, "blip", device="cpu", steps=options.steps, overrides=[*films, *options.set])
    results = {**provenance(), "steps": config.tasks[0].steps, "runs": [_run(config) for _ in range(options.repeats)]}
    rows = [
        [part, *(f"{run['seconds'][part]:.2f} s, {run['seconds'][part] / run['total']:.2%}" for run in results["runs"])]
        for part in [*PARTS, "all of it"]
    ]
    header = ["processor time, and its share of the run's", *(f"run {number + 1}" for number in range(options.repeats))]
    show(results, markdown_table(header, rows), options.out)


def _run(config: Any) -> dict[str, Any]:
    """Train once in a temporary folder."""
    clock, begun = Clock(), time.process_time()
    with tempfile.TemporaryDirectory(prefix="blip-rl-benchmark-") as folder, watched(clock):
        train_module.train(config, out=Path(folder, "run"), quiet=True)
    clock.seconds["all of it"] = sum(clock.seconds.values())
    return {"seconds": clock.seconds, "total": time.process_time() - begun}


if __name__ == "__main__":
    main()
