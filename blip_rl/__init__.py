"""blip-rl: continual reinforcement learning on Atari with bit-level information preserving.

The public names below load on first use, so that ``import blip_rl`` and the command line stay quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blip_rl.any_module import protect_module as protect_module
    from blip_rl.methods.base import Method as Method
    from blip_rl.methods.blip import Blip as Blip
    from blip_rl.methods.finetune import Finetune as Finetune
    from blip_rl.sb3.protect import protect as protect

__version__ = "0.1.0"
__all__ = ["Blip", "Finetune", "Method", "protect", "protect_module"]

_HOMES = {
    "Blip": "blip_rl.methods.blip",
    "Finetune": "blip_rl.methods.finetune",
    "Method": "blip_rl.methods.base",
    "protect": "blip_rl.sb3.protect",
    "protect_module": "blip_rl.any_module",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'blip_rl' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
