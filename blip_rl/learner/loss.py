"""PPO's loss on one minibatch, and the metrics to log; the defaults compute what stable-baselines3 computes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from blip_rl.agent_config import PpoConfig
from blip_rl.learner.advantages import normalized
from blip_rl.learner.rollout import Minibatch


class LossMetrics(NamedTuple):
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
    ppo: PpoConfig,
    *,
    clip_range: float,
    clip_range_value: float | None,
) -> tuple[Tensor, LossMetrics]:
    """L = −E[min(ρÂ, clip(ρ, 1 ± ε)Â)] − c_H·E[H] + c_V·L_V with ρ = π(a|s)/π_old(a|s), L_V from :func:`value_loss`.

    Args:
        log_probs: log π(a|s) under the current policy, (batch,).
        entropy: Entropy of the current π(·|s), (batch,).
        values: Current V(s), (batch,).
        batch: The collected samples. Advantages are normalised here if ``ppo.normalize_advantage`` is ``"minibatch"``.
        ppo: c_H, c_V, and how the value loss and the advantages are computed.
        clip_range: ε.
        clip_range_value: Clip range of the value around V at collection, in units of the return; None: not clipped.

    Returns:
        The loss, a scalar with gradients, and the metrics.

    Source: Schulman et al. 2017 (arXiv 1707.06347), Eq. 7 and 9.
    """
    advantages = batch.advantages
    if ppo.normalize_advantage == "minibatch" and len(advantages) > 1:
        advantages = normalized(advantages, epsilon=1e-8)  # stable-baselines3's epsilon
    log_ratio = log_probs - batch.log_probs
    ratio = log_ratio.exp()
    policy_loss = -torch.min(advantages * ratio, advantages * ratio.clamp(1 - clip_range, 1 + clip_range)).mean()
    value_error = value_loss(values, batch.values, batch.returns, ppo, clip_range_value)
    entropy_loss = -entropy.mean()
    loss = policy_loss + ppo.entropy_coefficient * entropy_loss + ppo.value_coefficient * value_error
    with torch.no_grad():
        kl = (ratio - 1 - log_ratio).mean()  # Schulman's low-variance estimator "k3", joschu.net/blog/kl-approx.html
        clipped = ((ratio - 1).abs() > clip_range).float().mean()
    metrics = (entropy_loss, policy_loss, value_error, kl, clipped, loss)
    return loss, LossMetrics(*(metric.detach() for metric in metrics))


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, ppo: PpoConfig, clip_range_value: float | None
) -> Tensor:
    """L_V = k·E[(V_clip − R)²], or k·E[max((V − R)², (V_clip − R)²)] with ``value_loss = "max"``.

    V_clip = V_old + clip(V − V_old, ±``clip_range_value``) and k = ``value_loss_scale``.

    Args:
        values: Current V(s), (batch,).
        old_values: V(s) at collection, (batch,).
        returns: R, (batch,).
        ppo: ``value_loss`` and ``value_loss_scale``.
        clip_range_value: Clip range of the value, in units of the return; None: V_clip = V.

    Returns:
        A scalar.

    Source: ``"clipped"`` is stable-baselines3's ``PPO.train``, ``"max"`` openai/baselines' ``ppo2/model.py``.
    """
    clipped = values
    if clip_range_value is not None:
        clipped = old_values + (values - old_values).clamp(-clip_range_value, clip_range_value)
    if ppo.value_loss == "clipped":
        return ppo.value_loss_scale * F.mse_loss(returns, clipped)
    return ppo.value_loss_scale * torch.max((returns - clipped).square(), (returns - values).square()).mean()
