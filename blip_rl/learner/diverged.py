"""A training that has diverged: found once an update, without waiting for a GPU at every minibatch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from blip_rl.learner.diagnostics import UpdateFigures


def check_finite(updates: Sequence[UpdateFigures], weights: Mapping[str, Tensor], where: str) -> None:
    """Stop a training that has diverged: it would only go on writing rubbish.

    Args:
        updates: Figures of the optimizer steps since the last check, in their order.
        weights: The network's, by name.
        where: Task and step, for the message.

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
        f"training diverged: the {first} is not a finite number, {where} (a lower ppo.learning_rate may help)"
    )
