"""What belongs to one task of a policy: its head, its modulation of the trunk and its running statistics."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim
from torch import nn

from blip_rl.errors import UserError
from blip_rl.learner.normalization import Normalizer
from blip_rl.learner.trunk import Modulation, Trunk


class TaskModule(nn.Module):
    """Parameters of one task: actor, critic and, with ``modulation``, a scale and shift for each trunk unit.

    The statistics of its normaliser are buffers: saved with the parameters, but not trained.
    """

    log_std: nn.Parameter | None

    def __init__(self, trunk: Trunk, action_space: spaces.Space[Any], modulation: bool, normalizer: Normalizer) -> None:
        super().__init__()
        if not isinstance(action_space, spaces.Discrete | spaces.Box):
            raise UserError(f"actions of {type(action_space).__name__}: expected a Discrete or a Box action space")
        outputs = int(action_space.n) if isinstance(action_space, spaces.Discrete) else get_action_dim(action_space)
        self.action_space = action_space
        self.actor = nn.Linear(trunk.features_dim, outputs)
        self.critic = nn.Linear(trunk.features_dim, 1)
        self.log_std = None if isinstance(action_space, spaces.Discrete) else nn.Parameter(torch.zeros(outputs))
        self.modulations = nn.ModuleList(Modulation(units) for units in trunk.layer_outputs if modulation)
        self.normalizer = normalizer
        for head, gain in ((self.actor, 0.01), (self.critic, 1.0)):  # stable-baselines3's gains
            nn.init.orthogonal_(head.weight, gain=gain)
            nn.init.zeros_(head.bias)
