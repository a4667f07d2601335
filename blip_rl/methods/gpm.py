"""GPM, gradient projection memory: updates orthogonal to the inputs of earlier tasks.

Saha, Garg & Roy, ICLR 2021 (arXiv 2103.09762). The equations are in :mod:`blip_rl.core.subspace`. Each layer keeps
an orthonormal basis of most of the input space of all earlier tasks, and its updates are projected onto the orthogonal
complement; its bias is frozen after the first task. State: 4 bytes × d × k for a layer with d inputs and k ≤ d
directions; while a later task is trained, also a copy of the weights.
"""

from __future__ import annotations

from typing import Any

from blip_rl.methods.projection_method import ProjectionMethod, ProjectionSettings


class GpmSettings(ProjectionSettings):
    """How much of a task's input space is protected, and what is projected."""


class Gpm(ProjectionMethod):
    """Projects updates onto the orthogonal complement of the inputs of earlier tasks."""

    Settings = GpmSettings
    settings: GpmSettings

    def __init__(self, **settings: Any) -> None:
        """Pass the fields of :class:`GpmSettings` as keywords: ``Gpm(threshold=0.995)``."""
        super().__init__(**settings)
