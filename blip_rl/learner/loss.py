"""PPO's loss on one minibatch, as stable-baselines3 computes it, and the figures worth logging."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from blip_rl.learner.rollout import Minibatch


class LossFigures(NamedTuple):
    """Scalars of one minibatch, detached; they stay on the device until a whole update is done."""

    entropy_loss: Tensor
    policy_gradient_loss: Tensor
    value_loss: Tensor
    approx_kl: Tensor
    clip_fraction: Tensor
    loss: Tensor


def ppo_loss(
    log_probs: Tensor,
    entropy: Tensor,
    values: Tensor,
    batch: Minibatch,
    *,
    clip_range: float,
    clip_range_value: float | None,
    entropy_coefficient: float,
    value_coefficient: float,
) -> tuple[Tensor, LossFigures]:
    """−E[min(ρÂ, clip(ρ, 1 ± ε)Â)] − c_H·E[H] + c_V·E[(V − return)²], ρ = π(a|s)/π_old(a|s).

    Advantages are normalised within the minibatch. With ``clip_range_value`` the value moves by at most that much from
    the one at collection.

    Args:
        log_probs: log π(a|s) now, (batch,).
        entropy: Entropy of π(·|s) now, (batch,).
        values: V(s) now, (batch,).
        batch: What was collected.
        clip_range: ε.
        clip_range_value: Limit of a value's change, in the units of returns; None for no limit.
        entropy_coefficient: c_H.
        value_coefficient: c_V.

    Returns:
        The loss, a scalar with gradients, and figures.

    Source: Schulman et al. 2017, Eq. 7 and 9.
    """
    advantages = batch.advantages
    if len(advantages) > 1:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    log_ratio = log_probs - batch.log_probs
    ratio = log_ratio.exp()
    policy_loss = -torch.min(advantages * ratio, advantages * ratio.clamp(1 - clip_range, 1 + clip_range)).mean()
    if clip_range_value is not None:
        values = batch.values + (values - batch.values).clamp(-clip_range_value, clip_range_value)
    value_loss = F.mse_loss(batch.returns, values)
    entropy_loss = -entropy.mean()
    loss = policy_loss + entropy_coefficient * entropy_loss + value_coefficient * value_loss
    with torch.no_grad():
        kl = (ratio - 1 - log_ratio).mean()  # Schulman's low-variance estimate, joschu.net/blog/kl-approx.html
        clipped = ((ratio - 1).abs() > clip_range).float().mean()
    figures = (entropy_loss, policy_loss, value_loss, kl, clipped, loss)
    return loss, LossFigures(*(figure.detach() for figure in figures))
