"""``tracker.json`` in a run folder: which run of which tracker it is, so that a resumed run continues the same one."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from blip_rl.errors import UserError, first_problem
from blip_rl.storage import atomic
from blip_rl.tracking.names import TrackChoice, TrackerName, check_installed
from blip_rl.tracking.sink import PROJECT_VARIABLES, TrackedRun
from blip_rl.untrusted.files import read_json

_FILE = "tracker.json"
_PROJECT = "blip-rl"
_LONGEST = 80
_Text = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
_Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]


class _Saved(BaseModel, extra="forbid"):
    """``tracker.json``; ``run`` is None if the tracker could not be reached when the run started."""

    tracker: TrackerName
    project: _Text
    run: _Id | None


def chosen_tracker(folder: Path, choice: TrackChoice | None) -> TrackedRun | None:
    """Return the tracker's run of a run folder, new or resumed; None without one.

    Args:
        folder: The run folder.
        choice: A tracker, or ``none``; None: the one that the folder was tracked with, if any.

    Raises:
        UserError: ``tracker.json`` is damaged, or the tracker's package is not installed.
    """
    saved = None if choice == "none" else _read(folder / _FILE)
    tracker = saved.tracker if choice is None and saved else choice
    if tracker is None or tracker == "none":
        return None
    check_installed(tracker)
    title = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip("-._")[:_LONGEST] or "run"
    if saved is not None and saved.tracker == tracker:
        return TrackedRun(tracker, saved.project, title, saved.run)
    return TrackedRun(tracker, os.environ.get(PROJECT_VARIABLES[tracker]) or _PROJECT, title, None)


def save_tracker(folder: Path, run: TrackedRun) -> None:
    """Write ``tracker.json``."""
    saved = _Saved(tracker=run.tracker, project=run.project[:200], run=run.id)
    atomic.replace_text(folder / _FILE, json.dumps(saved.model_dump()) + "\n")


def _read(path: Path) -> _Saved | None:
    if not path.exists():
        return None
    try:
        return _Saved.model_validate(read_json(path))
    except ValidationError as error:
        raise UserError(
            f"'{path}' cannot be read: {first_problem(error)} (remove it to resume without a tracker)"
        ) from None
