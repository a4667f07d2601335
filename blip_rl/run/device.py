"""The torch device of a run and its CPU threads."""

from __future__ import annotations

import torch

from blip_rl.errors import UserError


def cpu_threads(asked: int, device: str) -> int:
    """Return the number of CPU threads for torch; 0 keeps its default.

    With the network on a GPU, torch's CPU threads only compete with the emulators for cores: see docs/gpu.md.
    """
    return asked or (1 if device.startswith("cuda") else 0)


def resolve_device(device: str) -> str:
    """Resolve ``auto`` to ``cuda`` if a GPU is available, else to ``cpu``; return other devices unchanged.

    Raises:
        UserError: The device is not available.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    found = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if device not in [*found, *(["cuda"] if len(found) > 1 else [])]:
        raise UserError(
            f"device {device!r} is not available: this machine has {', '.join(found)} (use one of them, or auto)"
        )
    return device
