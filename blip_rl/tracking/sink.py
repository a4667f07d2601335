"""What a tracker's package has to do: one small class each in ``to_wandb``, ``to_trackio`` and ``to_mlflow``."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from blip_rl.tracking.names import TrackerName
from blip_rl.tracking.values import Film


@dataclass(frozen=True)
class Picture:
    """An RGB image, (height, width, 3) bytes."""

    pixels: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Histogram:
    """Values whose distribution is shown."""

    values: npt.NDArray[np.float64]


Value = float | Picture | Histogram | Film
Settings = Mapping[str, bool | str | float | None]
"""Hyperparameters."""


@dataclass(frozen=True)
class TrackedRun:
    """Identity of a run in its tracker.

    Attributes:
        tracker: The tracker.
        project: Project or experiment.
        title: Name that the tracker shows.
        id: The tracker's id of a run that is resumed; None for a new one.
    """

    tracker: TrackerName
    project: str
    title: str
    id: str | None


class Sink(Protocol):
    """One run of a tracker. Any error may be raised: :class:`~blip_rl.tracking.tracker.Tracker` handles it.

    Attributes:
        id: The tracker's id of the run, with which it is resumed.
        place: Where to look at the run: an address, or a command.
    """

    id: str
    place: str

    def log(self, values: Mapping[str, Value], step: int) -> None:
        """Log values of one step. A resumed run repeats the steps since its snapshot."""

    def file(self, path: Path) -> None:
        """Keep a copy of a file."""

    def close(self, finished: bool) -> None:
        """Send what is left; ``finished`` is false if the training stopped early."""


@contextmanager
def temporary_file(name: str, content: bytes) -> Iterator[Path]:
    """Yield the path of a file with this name and content that exists during the block."""
    with tempfile.TemporaryDirectory(prefix="blip-rl-") as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        yield path


def _wandb(run: TrackedRun, settings: Settings) -> Sink:
    from blip_rl.tracking.to_wandb import WandbSink

    return WandbSink(run, settings)


def _trackio(run: TrackedRun, settings: Settings) -> Sink:
    from blip_rl.tracking.to_trackio import TrackioSink

    return TrackioSink(run, settings)


def _mlflow(run: TrackedRun, settings: Settings) -> Sink:
    from blip_rl.tracking.to_mlflow import MlflowSink

    return MlflowSink(run, settings)


SINKS: dict[TrackerName, Callable[[TrackedRun, Settings], Sink]] = {
    "wandb": _wandb,
    "trackio": _trackio,
    "mlflow": _mlflow,
}
"""Tracker → function that starts a run, or resumes the one with the given id."""
PROJECT_VARIABLES: dict[TrackerName, str] = {
    "wandb": "WANDB_PROJECT",
    "trackio": "TRACKIO_PROJECT",
    "mlflow": "MLFLOW_EXPERIMENT_NAME",
}
"""Environment variable that names the project."""
