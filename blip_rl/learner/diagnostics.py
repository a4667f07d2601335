"""Metrics of an update, kept on the device and copied to the host once, and the check that training is finite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from stable_baselines3.common.utils import explained_variance
from torch import Tensor

from blip_rl.learner.loss import LossMetrics
from blip_rl.learner.rollout import Rollout


class UpdateMetrics(NamedTuple):
    """Metrics of one optimizer step: detached scalars on the device.

    Attributes:
        losses: Metrics of the PPO loss.
        method_loss: The loss that the method added; None for none.
        gradient_norm: Global norm of all gradients, before clipping.
    """

    losses: LossMetrics
    method_loss: Tensor | None
    gradient_norm: Tensor

    def by_name(self) -> dict[str, Tensor]:
        """Scalars that must be finite, by display name, in order of computation."""
        losses = self.losses  # without approx_kl: an infinite one does no harm, since the ratios behind it are clipped
        named = {
            "entropy loss": losses.entropy_loss,
            "policy gradient loss": losses.policy_gradient_loss,
            "value loss": losses.value_loss,
            "loss": losses.loss,
        }
        added = {} if self.method_loss is None else {"method's loss": self.method_loss}
        return {**named, **added, "gradient's norm": self.gradient_norm}

    def row(self) -> Tensor:
        """Stack all metrics into one tensor, (metrics,): the single output of a captured update."""
        added = () if self.method_loss is None else (self.method_loss.reshape(()),)
        return torch.stack([*self.losses, self.gradient_norm, *added])

    @classmethod
    def from_row(cls, row: Tensor) -> UpdateMetrics:
        """Unpack the result of :meth:`row`."""
        *losses, norm = row[: len(LossMetrics._fields) + 1]
        return cls(LossMetrics(*losses), row[-1] if len(row) > len(losses) + 1 else None, norm)


def means(updates: Sequence[UpdateMetrics], rollout: Rollout, log_std: Tensor | None) -> dict[str, float]:
    """Return means over the minibatches, explained variance and policy std, by the names they are logged under.

    Args:
        updates: Metrics of every minibatch.
        rollout: The rollout learned from.
        log_std: Log standard deviation of continuous actions; None for discrete ones.
    """
    columns = dict(zip(LossMetrics._fields, torch.stack([torch.stack(u.losses) for u in updates]).mean(0), strict=True))
    if rollout.device.type == "cpu":
        values, returns = rollout.values.flatten().numpy(), rollout.returns.flatten().numpy()
        columns["explained_variance"] = torch.tensor(explained_variance(values, returns), dtype=torch.float64)
    else:
        columns["explained_variance"] = _explained_variance(rollout.values, rollout.returns)
    if log_std is not None:
        columns["std"] = log_std.detach().exp().mean()
    # One copy to the host for all of them: each .item() would wait for the device.
    return dict(zip(columns, torch.stack([column.double() for column in columns.values()]).tolist(), strict=True))


def _explained_variance(values: Tensor, returns: Tensor) -> Tensor:
    """Compute 1 − Var[R − V] / Var[R] on the device, a scalar; NaN if all returns are equal."""
    spread = returns.double().var(correction=0)
    share = 1 - (returns.double() - values.double()).var(correction=0) / spread
    return torch.where(spread == 0, torch.nan, share)


class NamedMetrics(Protocol):
    """Metrics of one optimizer step that must be finite."""

    def by_name(self) -> dict[str, Tensor]:
        """Scalars by display name, in order of computation."""


def check_finite(
    updates: Sequence[NamedMetrics], weights: Mapping[str, Tensor], where: str, rate: str = "ppo.learning_rate"
) -> None:
    """Raise if losses or weights are not finite: the training has diverged.

    Args:
        updates: Metrics of the optimizer steps since the last check, in their order.
        weights: The network's parameters, by name.
        where: Task and step, for the message.
        rate: Name of the learning rate setting, for the message.

    Raises:
        FloatingPointError: names the first value that was not finite.
    """
    values = [value for update in updates for value in update.by_name().values()]
    # One host read for the whole update: each read synchronises with the GPU, and each separate test costs a launch.
    metrics = [torch.isfinite(torch.stack([value.reshape(()) for value in values]))] if values else []
    finite = torch.cat([*metrics, torch.stack([torch.isfinite(weight).all() for weight in weights.values()])])
    if bool(finite.all()):
        return
    names = [name for update in updates for name in update.by_name()] + [f"weight {name!r}" for name in weights]
    first = names[finite.tolist().index(False)]
    raise FloatingPointError(
        f"training diverged: the {first} is not a finite number, {where} (a lower {rate} may help)"
    )
