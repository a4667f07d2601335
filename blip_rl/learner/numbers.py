"""PPO's numbers under the names that stable-baselines3 has for them."""

from __future__ import annotations

from typing import Any

from blip_rl.config import PpoConfig


def stable_baselines_numbers(numbers: PpoConfig) -> dict[str, Any]:
    """Return the keyword arguments of stable-baselines3's ``PPO``.

    It has no equivalent of ``value_loss = "max"`` and ``normalize_advantage = "rollout"``; they are left out.
    """
    linear = numbers.learning_rate_schedule == "linear"
    return {
        "learning_rate": (lambda left: left * numbers.learning_rate) if linear else numbers.learning_rate,
        "n_steps": numbers.rollout_steps,
        "batch_size": numbers.rollout_steps * numbers.environments // numbers.minibatches,
        "n_epochs": numbers.epochs,
        "gamma": numbers.discount,
        "gae_lambda": numbers.gae_lambda,
        "clip_range": numbers.clip_range,
        "clip_range_vf": numbers.clip_range_value,
        "ent_coef": numbers.entropy_coefficient,
        "vf_coef": numbers.value_coefficient * numbers.value_loss_scale,
        "max_grad_norm": numbers.max_gradient_norm,
    }
