"""GPM, gradient projection memory: updates orthogonal to the inputs of earlier tasks.

Saha, Garg & Roy, ICLR 2021 (arXiv 2103.09762). The equations are in :mod:`blip_rl.core.subspace`. Each layer keeps
an orthonormal basis of most of the input space of all earlier tasks, and its updates are projected onto the orthogonal
complement; its bias is frozen after the first task. State: 4 bytes × d × k for a layer with d inputs and k ≤ d
directions; while a later task is trained, also a copy of the weights.
"""

from __future__ import annotations

from blip_rl.methods.projection_method import ProjectionMethod


class Gpm(ProjectionMethod):
    """Projects updates onto the orthogonal complement of the inputs of earlier tasks: ``Gpm(threshold=0.995)``."""
