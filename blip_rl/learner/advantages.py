"""Generalised advantage estimation (GAE): a loop over steps on the CPU, a parallel scan on a GPU.

Â_t = δ_t + γλ·(1 − d_{t+1})·Â_{t+1} with δ_t = r_t + γ·(1 − d_{t+1})·V(s_{t+1}) − V(s_t), d_{t+1} = 1 where s_{t+1}
begins a new episode. Source: Schulman et al. 2016, "High-dimensional continuous control using generalized advantage
estimation", Eq. 16.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[np.float32]


def gae_loop(rewards: Array, values: Array, last_values: Array, continues: Array, gamma: float, lam: float) -> Array:
    """Estimate advantages by a loop from the last step to the first.

    Args:
        rewards: r_t, (steps, environments).
        values: V(s_t), (steps, environments).
        last_values: V of the observations after the last step, (environments,).
        continues: 1 − d_{t+1}, (steps, environments).
        gamma: γ.
        lam: λ.

    Returns:
        Â_t, (steps, environments).
    """
    following = np.concatenate([values[1:], last_values.reshape(1, -1)])
    deltas = rewards + np.float32(gamma) * following * continues - values
    advantages, carried = np.empty_like(deltas), np.zeros(deltas.shape[1], dtype=np.float32)
    decay = np.float32(gamma * lam) * continues
    for step in reversed(range(len(deltas))):
        carried = deltas[step] + decay[step] * carried
        advantages[step] = carried
    return advantages


def gae_scan(
    rewards: Tensor, values: Tensor, last_values: Tensor, continues: Tensor, gamma: float, lam: float
) -> Tensor:
    """Estimate advantages by recursive doubling (a Hillis–Steele scan): ⌈log₂ steps⌉ rounds of a few kernels each.

    Arguments and result are those of :func:`gae_loop`, as tensors. After k rounds entry t holds the sum of its
    next 2ᵏ terms and the product of their decays. The next round adds the sum of entry t + 2ᵏ times that product.
    """
    following = torch.cat([values[1:], last_values.reshape(1, -1)])
    sums = rewards + gamma * following * continues - values
    decays, reach = gamma * lam * continues, 1
    while reach < len(sums):
        sums = torch.cat([sums[:-reach] + decays[:-reach] * sums[reach:], sums[-reach:]])
        decays = torch.cat([decays[:-reach] * decays[reach:], decays[-reach:]])
        reach *= 2
    return sums


def normalized(advantages: Tensor, epsilon: float) -> Tensor:
    """Normalise advantages: (Â − mean) / (std + ``epsilon``), std with Bessel's correction.

    Args:
        advantages: Â, of any shape with at least two entries.
        epsilon: Keeps the quotient finite if all advantages are equal.
    """
    return (advantages - advantages.mean()) / (advantages.std() + epsilon)
