"""A training that has diverged: found once an update, without waiting for a GPU at every minibatch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from blip_rl.learner.loss import LossFigures


class UpdateFigures(NamedTuple):
    """What one optimizer step leaves to be looked at.

    Attributes:
        losses: PPO's.
        method_loss: What the method added; None for nothing.
        gradient_norm: Of all gradients together, before it was clipped, a scalar.
    """

    losses: LossFigures
    method_loss: Tensor | None
    gradient_norm: Tensor

    def by_name(self) -> dict[str, Tensor]:
        """Scalars by what a person calls them, in the order they are computed."""
        losses = self.losses  # an infinite approx_kl alone does no harm: the ratios behind it are clipped
        named = {
            "entropy loss": losses.entropy_loss,
            "policy gradient loss": losses.policy_gradient_loss,
            "value loss": losses.value_loss,
            "loss": losses.loss,
        }
        added = {} if self.method_loss is None else {"method's loss": self.method_loss}
        return {**named, **added, "gradient's norm": self.gradient_norm}


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
    # Asked once for all: each answer waits for a GPU.
    finite = torch.stack([torch.isfinite(tensor).all() for tensor in (*values, *weights.values())])
    if bool(finite.all()):
        return
    names = [name for update in updates for name in update.by_name()] + [f"weight {name!r}" for name in weights]
    first = names[finite.tolist().index(False)]
    raise FloatingPointError(
        f"training diverged: the {first} is not a finite number, {where} (a lower ppo.learning_rate may help)"
    )
