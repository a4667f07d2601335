"""Names of the trackers, and whether the package of one is installed; imports nothing heavy."""

from __future__ import annotations

import importlib.util
from typing import Literal, get_args

from blip_rl.errors import UserError
from blip_rl.extras import install_command

TrackerName = Literal["wandb", "trackio", "mlflow"]
"""A tracker: the name of its package and of the extra that installs it."""
TrackChoice = Literal["none", "wandb", "trackio", "mlflow"]
"""Name of a tracker, or ``none``: a resumed run stops using its tracker."""

TRACKERS: tuple[TrackerName, ...] = get_args(TrackerName)
CHOICES: tuple[TrackChoice, ...] = get_args(TrackChoice)


def check_installed(tracker: TrackChoice | None) -> None:
    """Check that the package of a tracker is installed, if there is one.

    Raises:
        UserError: It is not.
    """
    if tracker in TRACKERS and importlib.util.find_spec(tracker) is None:
        raise UserError(
            f"track = {tracker!r} needs the package {tracker}, which is not installed: {install_command(tracker)} "
            "(TensorBoard needs no extra package)"
        )
