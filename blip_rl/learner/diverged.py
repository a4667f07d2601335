"""A training that has diverged: found once an update, without waiting for a GPU at every minibatch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor


class NamedFigures(Protocol):
    """What one optimizer step leaves to be checked."""

    def by_name(self) -> dict[str, Tensor]:
        """Scalars by what a person calls them, in the order they are computed."""


def check_finite(
    updates: Sequence[NamedFigures], weights: Mapping[str, Tensor], where: str, rate: str = "ppo.learning_rate"
) -> None:
    """Raise if losses or weights are not finite: the training has diverged.

    Args:
        updates: Figures of the optimizer steps since the last check, in their order.
        weights: The network's, by name.
        where: Task and step, for the message.
        rate: The setting of the learning rate, for the message.

    Raises:
        FloatingPointError: with what came first.
    """
    values = [value for update in updates for value in update.by_name().values()]
    # Asked once for all, and of all figures together: each answer waits for a GPU, each question takes a launch.
    figures = [torch.isfinite(torch.stack([value.reshape(()) for value in values]))] if values else []
    finite = torch.cat([*figures, torch.stack([torch.isfinite(weight).all() for weight in weights.values()])])
    if bool(finite.all()):
        return
    names = [name for update in updates for name in update.by_name()] + [f"weight {name!r}" for name in weights]
    first = names[finite.tolist().index(False)]
    raise FloatingPointError(
        f"training diverged: the {first} is not a finite number, {where} (a lower {rate} may help)"
    )
