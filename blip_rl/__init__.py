"""blip-rl: continual reinforcement learning on Atari with bit-level information preserving.

The public names below load on first use, so that ``import blip_rl`` and the command line stay quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blip_rl.any_module import protect_module as protect_module
    from blip_rl.api.run import Run as Run
    from blip_rl.api.run import load as load
    from blip_rl.api.sharing import publish as publish
    from blip_rl.api.sweeping import sweep as sweep
    from blip_rl.api.training import resume as resume
    from blip_rl.api.training import train as train
    from blip_rl.api.viewing import evaluate as evaluate
    from blip_rl.api.viewing import render as render
    from blip_rl.api.viewing import report as report
    from blip_rl.errors import InterruptedRunError as InterruptedRunError
    from blip_rl.errors import RunError as RunError
    from blip_rl.errors import UserError as UserError
    from blip_rl.methods.base import Method as Method
    from blip_rl.methods.blip import Blip as Blip
    from blip_rl.methods.finetune import Finetune as Finetune
    from blip_rl.sb3.protect import protect as protect

__version__ = "0.1.0"

# No module below may have one of these names: importing it would replace the function.
_HOMES = {
    "Blip": "blip_rl.methods.blip",
    "Finetune": "blip_rl.methods.finetune",
    "InterruptedRunError": "blip_rl.errors",
    "Method": "blip_rl.methods.base",
    "Run": "blip_rl.api.run",
    "RunError": "blip_rl.errors",
    "UserError": "blip_rl.errors",
    "evaluate": "blip_rl.api.viewing",
    "load": "blip_rl.api.run",
    "protect": "blip_rl.sb3.protect",
    "protect_module": "blip_rl.any_module",
    "publish": "blip_rl.api.sharing",
    "render": "blip_rl.api.viewing",
    "report": "blip_rl.api.viewing",
    "resume": "blip_rl.api.training",
    "sweep": "blip_rl.api.sweeping",
    "train": "blip_rl.api.training",
}
__all__ = [
    "Blip",
    "Finetune",
    "InterruptedRunError",
    "Method",
    "Run",
    "RunError",
    "UserError",
    "evaluate",
    "load",
    "protect",
    "protect_module",
    "publish",
    "render",
    "report",
    "resume",
    "sweep",
    "train",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'blip_rl' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
