"""The parameters that act for all tasks when they share one head: trunk and actor as one module."""

from __future__ import annotations

from torch import Tensor, nn

from blip_rl.learner.trunk import Trunk


class ActorPath(nn.Module):
    """Trunk followed by the shared actor, for methods to protect. Layers keep the names that they have in the trunk.

    Its output is that of the actor, (batch, actions): a method that maps it to the policy needs no further layer.
    """

    def __init__(self, trunk: Trunk, actor: nn.Linear) -> None:
        super().__init__()
        for name in trunk.layer_names:
            self.add_module(name, trunk.get_submodule(name))
        self.actor = actor
        self._path = [trunk]  # in a list: as a submodule its parameters would be listed twice, under other names

    def forward(self, inputs: Tensor) -> Tensor:
        """Map preprocessed observations to logits or means of actions."""
        outputs: Tensor = self.actor(self._path[0](inputs))
        return outputs
