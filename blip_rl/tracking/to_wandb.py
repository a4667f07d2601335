"""Weights & Biases (https://docs.wandb.ai)."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import wandb

from blip_rl.tracking.sink import Histogram, Picture, Settings, TrackedRun, Value
from blip_rl.tracking.values import Film


class WandbSink:
    """A run of Weights & Biases; its own step counter is not used, since it refuses a step that is logged again."""

    def __init__(self, run: TrackedRun, settings: Settings) -> None:
        self.id = run.id or secrets.token_hex(4)
        # console: otherwise it replaces stdout, and with it the progress bar's terminal.
        self._run = wandb.init(
            project=run.project,
            name=run.title,
            id=self.id,
            resume="allow",
            config=dict(settings),
            allow_val_change=True,  # by --accept-changes
            settings=wandb.Settings(console="off", silent=True),
        )
        self._run.define_metric("env_steps")
        self._run.define_metric("*", step_metric="env_steps")
        offline = f"offline; to send it: wandb sync {Path(self._run.dir).parent}"
        self.place = offline if self._run.offline else str(self._run.url)

    def log(self, values: Mapping[str, Value], step: int) -> None:
        """Log values with their step as ``env_steps``."""
        self._run.log({**{key: _converted(value) for key, value in values.items()}, "env_steps": step})

    def file(self, path: Path) -> None:
        """Add an artifact of one file."""
        artifact = wandb.Artifact(f"{self.id}-{path.name}", type="blip-rl")
        artifact.add_file(str(path), name=path.name)  # copies it
        self._run.log_artifact(artifact)

    def close(self, finished: bool) -> None:
        """Finish the run."""
        self._run.finish(exit_code=0 if finished else 1)


def _converted(value: Value) -> Any:
    if isinstance(value, Picture):
        return wandb.Image(value.pixels)
    if isinstance(value, Histogram):
        return wandb.Histogram(value.values)
    if isinstance(value, Film):
        return wandb.Video(BytesIO(value.encoded), format="gif")
    return value
