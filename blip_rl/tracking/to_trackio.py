"""Trackio (https://huggingface.co/docs/trackio): local, or in a Space with ``TRACKIO_SPACE_ID``."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextlib import ExitStack, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import trackio

from blip_rl.tracking.sink import Histogram, Picture, Settings, TrackedRun, Value, temporary_file
from blip_rl.tracking.values import Film


class TrackioSink:
    """A run of Trackio, which knows a run by its name."""

    def __init__(self, run: TrackedRun, settings: Settings) -> None:
        self.id = run.id or f"{run.title}-{secrets.token_hex(3)}"
        with redirect_stdout(StringIO()):  # it prints five lines
            self._run = trackio.init(
                project=run.project, name=self.id, resume="allow", config=dict(settings), embed=False
            )
        trackio.context_vars.current_run.set(None)  # otherwise it ends the run once more at exit, and prints that
        self.place = f"trackio show --project {run.project}"

    def log(self, values: Mapping[str, Value], step: int) -> None:
        """Log values."""
        with ExitStack() as files:
            self._run.log({key: _converted(value, files) for key, value in values.items()}, step=step)

    def file(self, path: Path) -> None:
        """Add an artifact of one file."""
        self._run.log_artifact(path, name=f"{self.id}-{path.name}", type="blip-rl")

    def close(self, finished: bool) -> None:
        """Finish the run."""
        with redirect_stdout(StringIO()):
            self._run.finish()


def _converted(value: Value, files: ExitStack) -> Any:
    if isinstance(value, Picture):
        return trackio.Image(value.pixels)
    if isinstance(value, Histogram):
        return trackio.Histogram(value.values)
    if isinstance(value, Film):
        return trackio.Video(files.enter_context(temporary_file("film.gif", value.encoded)))  # copied by log
    return value
