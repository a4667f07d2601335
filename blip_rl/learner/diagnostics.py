"""What an update leaves to be looked at: kept on the device, brought over once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from stable_baselines3.common.utils import explained_variance
from torch import Tensor

from blip_rl.learner.loss import LossMetrics
from blip_rl.learner.rollout import Rollout


class UpdateMetrics(NamedTuple):
    """What one optimizer step leaves to be looked at.

    Attributes:
        losses: PPO's.
        method_loss: What the method added; None for nothing.
        gradient_norm: Of all gradients together, before it was clipped, a scalar.
    """

    losses: LossMetrics
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

    def row(self) -> Tensor:
        """All metrics as one tensor, (metrics,)."""
        added = () if self.method_loss is None else (self.method_loss.reshape(()),)
        return torch.stack([*self.losses, self.gradient_norm, *added])

    @classmethod
    def from_row(cls, row: Tensor) -> UpdateMetrics:
        """The metrics of :meth:`row` again."""
        *losses, norm = row[: len(LossMetrics._fields) + 1]
        return cls(LossMetrics(*losses), row[-1] if len(row) > len(losses) + 1 else None, norm)


def means(updates: Sequence[UpdateMetrics], rollout: Rollout, log_std: Tensor | None) -> dict[str, float]:
    """Means over an update's minibatches, and what the rollout and the policy say, by the names they are logged under.

    Args:
        updates: Figures of every minibatch.
        rollout: What was learned from.
        log_std: Of continuous actions.
    """
    names, parts = list(LossMetrics._fields), [torch.stack([torch.stack(update.losses) for update in updates]).mean(0)]
    if rollout.device.type == "cpu":
        values, returns = rollout.values.flatten().numpy(), rollout.returns.flatten().numpy()
        explained = torch.tensor([explained_variance(values, returns)], dtype=torch.float64)
    else:
        explained = _explained_variance(rollout.values, rollout.returns)
    names, parts = [*names, "explained_variance"], [*parts, explained]
    if log_std is not None:
        names, parts = [*names, "std"], [*parts, log_std.detach().exp().mean().reshape(1)]
    return dict(zip(names, torch.cat(parts).tolist(), strict=True))


def _explained_variance(values: Tensor, returns: Tensor) -> Tensor:
    """1 − Var[return − V] / Var[return], (1,); NaN where all returns are the same."""
    spread = returns.double().var(correction=0)
    share = 1 - (returns.double() - values.double()).var(correction=0) / spread
    return torch.where(spread == 0, torch.nan, share).reshape(1)


class NamedMetrics(Protocol):
    """What one optimizer step leaves to be checked."""

    def by_name(self) -> dict[str, Tensor]:
        """Scalars by what a person calls them, in the order they are computed."""


def check_finite(
    updates: Sequence[NamedMetrics], weights: Mapping[str, Tensor], where: str, rate: str = "ppo.learning_rate"
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
    # Asked once for all, and of all metrics together: each answer waits for a GPU, each question takes a launch.
    metrics = [torch.isfinite(torch.stack([value.reshape(()) for value in values]))] if values else []
    finite = torch.cat([*metrics, torch.stack([torch.isfinite(weight).all() for weight in weights.values()])])
    if bool(finite.all()):
        return
    names = [name for update in updates for name in update.by_name()] + [f"weight {name!r}" for name in weights]
    first = names[finite.tolist().index(False)]
    raise FloatingPointError(
        f"training diverged: the {first} is not a finite number, {where} (a lower {rate} may help)"
    )
