"""Hands what a training logs to a tracker, in a thread of its own: a tracker can neither stop nor delay a training."""

from __future__ import annotations

import queue
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.logger import Image, KVWriter, Logger

from blip_rl.tracking.saved import save_tracker
from blip_rl.tracking.sink import SINKS, Histogram, Picture, Settings, Sink, TrackedRun, Value, temporary_file
from blip_rl.tracking.values import Document, Film

_MOST_WAITING = 10_000  # logged steps; more are dropped if the tracker is slower than the training


class Tracker(KVWriter):
    """An output of stable-baselines3's logger that sends to a tracker what the event file gets.

    An error of the tracker is a warning, once; later values are still tried.

    Attributes:
        name: The tracker.
        finished: Set to True when the run is finished; otherwise the tracker shows it as stopped.
        patience: Most seconds that closing waits for what is still to be sent.
    """

    def __init__(self, name: str, sink: Sink) -> None:
        self.name, self.finished, self.patience = name, False, 60.0
        self._sink, self._told = sink, False
        self._problem: str | None = None
        self._waiting: queue.Queue[Callable[[], None] | None] = queue.Queue(_MOST_WAITING)
        self._thread = threading.Thread(target=self._send_all, name=f"to {name}", daemon=True)
        self._thread.start()

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Take the values of one step; they are sent later."""
        values: dict[str, Value] = {}
        for key, value in sorted(key_values.items()):
            if "tensorboard" in (key_excluded[key] or ()):
                continue
            if isinstance(value, Document):
                self._later(partial(self._send_file, value))
            elif (taken := _taken(value)) is not None:
                values[key] = taken
        if values:
            self._later(partial(self._sink.log, values, step))
        self._warn()

    def close(self) -> None:
        """Send what is waiting and end the tracker's run, unless it takes longer than :attr:`patience`."""
        end = time.monotonic() + self.patience
        with suppress(queue.Full):
            self._waiting.put(None, timeout=self.patience)
        self._thread.join(max(0.0, end - time.monotonic()))
        if self._thread.is_alive():
            self._problem = self._problem or f"it did not take all values within {self.patience:.0f} s at the end"
        self._warn()

    def _later(self, send: Callable[[], None]) -> None:
        try:
            self._waiting.put_nowait(send)
        except queue.Full:
            self._problem = (
                self._problem or f"more than {_MOST_WAITING:,} logged steps wait for it; later ones are lost"
            )

    def _send_all(self) -> None:
        """Send until there is a None, then close; runs in the thread."""
        while (send := self._waiting.get()) is not None:
            self._try(send)
        self._try(lambda: self._sink.close(self.finished))

    def _try(self, send: Callable[[], None]) -> None:
        try:
            send()
        except Exception as error:
            self._problem = self._problem or _reason(error)

    def _send_file(self, document: Document) -> None:
        with temporary_file(document.name, document.text.encode()) as path:
            self._sink.file(path)

    def _warn(self) -> None:
        """Warn of the first problem, in the thread that trains."""
        if self._problem is not None and not self._told:
            self._told = True
            warnings.warn(
                f"{self.name} has not got everything (TensorBoard has), training continues: {self._problem}",
                stacklevel=3,
            )


def open_tracker(folder: Path, run: TrackedRun, settings: Settings, say: Callable[[str], None]) -> Tracker | None:
    """Start a run of a tracker, or resume it, and store its id in the run folder.

    Args:
        folder: The run folder.
        run: What to start or resume.
        settings: The hyperparameters.
        say: Prints a line: where to look at the run.

    Returns:
        The output for the logger. None if the tracker cannot be reached, after a warning.

    """
    save_tracker(folder, run)  # so that --resume tries again if this fails, or if the process is killed
    try:
        sink = SINKS[run.tracker](run, settings)
    except Exception as error:
        warnings.warn(
            f"{run.tracker} cannot be used, training continues with TensorBoard alone: {_reason(error)}",
            stacklevel=2,
        )
        return None
    save_tracker(folder, replace(run, id=sink.id))
    say(f"{run.tracker}: {sink.place}")
    return Tracker(run.tracker, sink)


def trackers(logger: Logger) -> list[Tracker]:
    """Return the trackers that a logger writes to."""
    return [output for output in logger.output_formats if isinstance(output, Tracker)]


def _taken(value: Any) -> Value | None:
    """Return a logged value as sinks take it, independent of tensors that the training continues to change."""
    if isinstance(value, Film):
        return value
    if isinstance(value, Image):
        return Picture(np.asarray(value.image)) if value.dataformats == "HWC" else None
    if isinstance(value, torch.Tensor | np.ndarray):
        return Histogram(torch.as_tensor(value).detach().cpu().double().flatten().numpy().copy())
    number = isinstance(value, np.ScalarType) and not isinstance(value, str | bytes | complex)
    return float(value) if number else None


def _reason(error: Exception) -> str:
    """Return type and first line of an error's message."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}".removesuffix(".")
