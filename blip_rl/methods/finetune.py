"""Fine-tuning: each task continues to train the same trunk, without protection. The baseline of every comparison.

Two settings, off by default, are meant to keep the trunk able to learn: shrink and perturb, once at the start of each
later task, or softly after every optimizer step (Juliani & Ash, NeurIPS 2024, arXiv 2405.19153). The equation is in
:mod:`blip_rl.core.perturbation`.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from blip_rl.core.perturbation import shrink_and_perturb_
from blip_rl.methods.base import FinishedTask, Method, MethodState
from blip_rl.setting_types import Fraction, Settings


class FinetuneSettings(Settings):
    """Shrink and perturb, θ ← (1 − share) θ + share · θ_new with newly initialised θ_new."""

    shrink_and_perturb: Fraction = 0.0
    """Share of newly initialised weights that is mixed into the trunk when each task but the first starts; 0: none."""
    soft_shrink_and_perturb: Fraction = 0.0
    """Share that is mixed into the trunk after every optimizer step of every task; 0: none."""


class Finetune(Method):
    """Protects nothing."""

    Settings = FinetuneSettings
    settings: FinetuneSettings

    def __init__(self, **settings: Any) -> None:
        """Pass the fields of :class:`FinetuneSettings` as keywords; without any it is plain fine-tuning."""
        super().__init__(**settings)
        self.tasks_seen = 0
        self._trunk: nn.Module | None = None

    @property
    def capturable(self) -> bool:  # type: ignore[override]  # depends on the settings
        """Whether nothing is drawn in an optimizer step."""
        return not self.settings.soft_shrink_and_perturb

    def start_task(self, trunk: nn.Module) -> None:
        """Shrink and perturb the trunk once, if it has learned a task before."""
        self._trunk = trunk
        if self.tasks_seen and self.settings.shrink_and_perturb:
            shrink_and_perturb_(_hidden(trunk), self.settings.shrink_and_perturb)

    def resume_task(self, trunk: nn.Module) -> None:
        """Keep the trunk as it is: it was perturbed when the task began."""
        self._trunk = trunk

    def after_step(self) -> None:
        """Shrink and perturb the trunk softly."""
        if self.settings.soft_shrink_and_perturb and self._trunk is not None:
            shrink_and_perturb_(_hidden(self._trunk), self.settings.soft_shrink_and_perturb)

    def end_task(self, finished: FinishedTask) -> dict[str, float]:
        """Count the task."""
        self.tasks_seen += 1
        return {}

    def state(self) -> MethodState:
        """Return the number of tasks seen, if it matters."""
        return MethodState(values={"tasks_seen": self.tasks_seen} if self.settings.shrink_and_perturb else {})

    def load_state(self, state: MethodState) -> None:
        """Load a saved state; raise ValueError if it is not of this method with these settings."""
        if not self.settings.shrink_and_perturb:
            super().load_state(state)
        elif state.tensors or state.values.keys() != {"tasks_seen"}:
            raise ValueError(
                f"a state without the number of tasks alone, but this method has shrink_and_perturb = "
                f"{self.settings.shrink_and_perturb:g}: expected the method and the settings that it was saved with"
            )
        else:
            self.tasks_seen = int(state.values["tasks_seen"])


def _hidden(trunk: nn.Module) -> list[nn.Parameter]:
    """Return the parameters without those of a shared actor, which is initialised with far smaller weights."""
    return [parameter for name, parameter in trunk.named_parameters() if not name.startswith("actor.")]
