"""Observations on their way to the network: one copy to the device, which nobody waits for."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor


class Staging:
    """The place on the device where the newest observations of some environments are: always the same memory.

    Attributes:
        tensor: What the last :meth:`put` brought, (environments, ...) of the space's type.
    """

    def __init__(self, environments: int, space: spaces.Box, device: torch.device) -> None:
        host = torch.from_numpy(np.zeros((environments, *space.shape), dtype=space.dtype))
        self.tensor = torch.zeros_like(host, device=device)
        # From memory that the system may move, a copy to a GPU is made twice and waited for.
        self._host = host.pin_memory() if device.type == "cuda" else None
        self._copied = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def put(self, observations: np.ndarray) -> Tensor:
        """Bring these observations to the device; the array is free again on return, the copy may still be under way.

        What is asked of the device next, on the same stream, finds them there.
        """
        given = torch.from_numpy(observations)
        if self._host is None or self._copied is None:
            return self.tensor.copy_(given)
        self._copied.synchronize()  # the copy before may still be reading; almost always it is long done
        self._host.copy_(given)
        self.tensor.copy_(self._host, non_blocking=True)
        self._copied.record(torch.cuda.current_stream(self.tensor.device))
        return self.tensor
