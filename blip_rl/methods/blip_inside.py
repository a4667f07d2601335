"""What acts inside BLIP's intervals, both additions of ours: a penalty (``pull``) and an ellipsoid (``budget``).

They need the sum of all Fishers and θ*, the weights after the newest task, which BLIP's own state cannot give: the
centre is θ* only to the frozen bits (0 without any), and the running Fisher contains the prior, beside which a small
Fisher is rounded off. State per trunk parameter: 8 bytes; with Kronecker factors that of :mod:`.ewc_kronecker`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from blip_rl.core import kronecker, saved
from blip_rl.core.budget import project_within_
from blip_rl.core.kronecker import Factors, KroneckerPenalty
from blip_rl.core.penalty import QuadraticPenalty
from blip_rl.methods.base import FinishedTask
from blip_rl.methods.blip_settings import BlipSettings

_DIAGONAL = ("fisher", "anchor")


class Inside:
    """The penalty and the ellipsoid of :class:`blip_rl.methods.blip.Blip`; neither acts before the first task ends.

    Args:
        settings: Those of the method.
    """

    def __init__(self, settings: BlipSettings) -> None:
        self._settings = settings
        self._kronecker = settings.pull_fisher == "kronecker"
        self._kinds = kronecker.KINDS if self._kronecker else _DIAGONAL
        self.penalty: QuadraticPenalty | KroneckerPenalty = self._flat()

    def _flat(self) -> QuadraticPenalty | KroneckerPenalty:
        return KroneckerPenalty() if self._kronecker else QuadraticPenalty()

    def start_task(self, trunk: nn.Module) -> None:
        """Move the penalty to the trunk's device and memory layout.

        Raises:
            ValueError: it belongs to another network.
            TypeError: a layer of the trunk has no Kronecker factors, and the penalty needs them.
        """
        if self._kronecker:
            kronecker.check_layers(trunk)
        if self.penalty.anchor:
            self.penalty = self.penalty.fitted(dict(trunk.named_parameters()))

    def add_gradient(self, name: str, parameter: nn.Parameter) -> None:
        """Add pull · F (θ − θ*), if there is a pull."""
        if self._settings.pull and self.penalty.anchor and parameter.grad is not None:
            self.penalty.add_gradient_(parameter.grad, name, parameter, self._settings.pull)

    @property
    def has_budget(self) -> bool:
        """Whether weights are projected onto the ellipsoid."""
        return bool(self._settings.budget and self.penalty.anchor)

    def project_(self, weights: Mapping[str, Tensor]) -> None:
        """Move the weights into the ellipsoid ½ Σ F (θ − θ*)² ≤ budget."""
        assert isinstance(self.penalty, QuadraticPenalty)  # BlipSettings refuses the other with a budget
        project_within_(weights, self.penalty, self._settings.budget)

    def spent(self, weights: Mapping[str, Tensor]) -> dict[str, float]:
        """Return the figures of a finished task: the penalty, and the nats of the budget, of its weights."""
        nats = self.penalty.at(weights) if self.penalty.anchor else 0.0
        found = {"penalty": self._settings.pull * nats} if self._settings.pull else {}
        return found | ({"spent": nats} if self._settings.budget else {})

    def measured(self, finished: FinishedTask, fisher: dict[str, Tensor]) -> dict[str, Tensor] | Factors:
        """Return the Fisher of a finished task that the penalty needs."""
        if not self._kronecker:
            return fisher
        factors = finished.kronecker(self._settings.fisher_expectation, self._settings.pull_rank)
        return factors.damped(self._settings.pull_damping)

    def after_task(self, fisher: dict[str, Tensor] | Factors, weights: Mapping[str, Tensor]) -> None:
        """Add a task's Fisher and move the anchor to its weights."""
        if isinstance(self.penalty, KroneckerPenalty):
            assert isinstance(fisher, Factors)
            self.penalty = self.penalty.after_task(fisher, weights)
        else:
            assert not isinstance(fisher, Factors)
            earlier = self.penalty if self.penalty.anchor else QuadraticPenalty.flat(weights, *_DIAGONAL)
            self.penalty = earlier.reset(weights).plus(fisher)

    def layouts(self, parameters: Mapping[str, Tensor]) -> dict[str, saved.TensorLayout]:
        """Return the layouts of the saved tensors; none without pull and budget."""
        if not self._settings.anchored:
            return {}
        if self._kronecker:
            return kronecker.layouts(parameters, self._settings.pull_rank)
        return saved.layouts(parameters, **dict.fromkeys(_DIAGONAL, torch.float32))

    def load(self, tensors: Mapping[str, Tensor], tasks: int) -> dict[str, Tensor]:
        """Load a saved state, not yet checked against a network; return the tensors that are not the penalty's.

        Raises:
            ValueError: it was saved with other settings.
        """
        kinds = {*_DIAGONAL, *kronecker.KINDS}
        kept = {name: tensor for name, tensor in tensors.items() if name.rpartition(".")[2] in kinds}
        found = {name.rpartition(".")[2] for name in kept}
        expected = set(self._kinds) if self._settings.anchored and tasks else set()
        if found != expected:
            has = "without Fisher"
            if found:
                has = "with Kronecker factors" if "inputs" in found else "with a diagonal Fisher"
            raise ValueError(
                f"a state {has}, but this method has pull = {self._settings.pull:g}, pull_fisher = "
                f"{self._settings.pull_fisher!r} and budget = {self._settings.budget:g}: expected the settings it was "
                "saved with"
            )
        if not kept:
            self.penalty = self._flat()
        elif self._kronecker:
            self.penalty = KroneckerPenalty.from_saved(kept, tasks)
        else:
            self.penalty = QuadraticPenalty.from_saved(kept, *_DIAGONAL)
        return {name: tensor for name, tensor in tensors.items() if name not in kept}
