"""Versions on which the results of a run depend; imports none of the packages."""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("python", "blip-rl", "torch", "numpy", "stable-baselines3", "gymnasium", "ale-py")
"""What every run uses."""
_OF_GAMES = ("minatar", "mujoco", "box2d", "box2d-py")


def versions() -> dict[str, str]:
    """Return name → version of Python, of the packages that a run uses, and of those with games that are installed."""
    found = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES if name != "python"}}
    for name in _OF_GAMES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
