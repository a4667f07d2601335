"""MLflow (https://mlflow.org): a server with ``MLFLOW_TRACKING_URI``, otherwise ``mlflow.db`` in the working folder."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from blip_rl.tracking.sink import Picture, Settings, TrackedRun, Value, temporary_file
from blip_rl.tracking.values import Film

_MOST_PARAMS = 100  # in one request
_LONGEST_PARAM = 6_000


class MlflowSink:
    """A run of MLflow; histograms have no counterpart there."""

    def __init__(self, run: TrackedRun, settings: Settings) -> None:
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # it logs how it creates mlflow.db
        # Otherwise a server that does not answer is asked for several minutes before the training begins.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        self._client = MlflowClient()
        if run.id is None:
            self.id = self._client.create_run(self._experiment(run.project), run_name=run.title).info.run_id
            self._set(settings)  # MLflow refuses to change them later
        else:
            self.id = self._client.get_run(run.id).info.run_id
            self._client.update_run(self.id, status="RUNNING")
        self.place = f"run {self.id} in {self._client.tracking_uri}"

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self._client.create_experiment(name))

    def _set(self, settings: Settings) -> None:
        params = [Param(key, str(value)[:_LONGEST_PARAM]) for key, value in settings.items()]
        for first in range(0, len(params), _MOST_PARAMS):
            self._client.log_batch(self.id, params=params[first : first + _MOST_PARAMS])

    def log(self, values: Mapping[str, Value], step: int) -> None:
        """Log numbers as metrics, pictures as images and films as artifacts."""
        now = int(1000 * time.time())
        numbers = {key: value for key, value in values.items() if isinstance(value, float)}
        self._client.log_batch(self.id, metrics=[Metric(key, value, now, step) for key, value in numbers.items()])
        for key, value in values.items():
            if isinstance(value, Picture):
                self._client.log_image(self.id, value.pixels, key=key, step=step)
            elif isinstance(value, Film):
                with temporary_file(f"step-{step:010}.gif", value.encoded) as path:
                    self._client.log_artifact(self.id, str(path), artifact_path=key)

    def file(self, path: Path) -> None:
        """Add an artifact."""
        self._client.log_artifact(self.id, str(path))

    def close(self, finished: bool) -> None:
        """End the run."""
        self._client.set_terminated(self.id, status="FINISHED" if finished else "KILLED")
