"""Versions on which the results of a run depend; imports none of the packages."""

from __future__ import annotations

import platform
from importlib.metadata import version

_PACKAGES = ("blip-rl", "torch", "numpy", "stable-baselines3", "gymnasium", "ale-py")


def versions() -> dict[str, str]:
    """Return name → version of Python and of the packages that a run uses."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}
