"""What a job asks of a Ray cluster, and how many of them a node can hold."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from blip_rl.errors import UserError
from blip_rl.sweeps.ray_cluster import Node
from blip_rl.untrusted.machine import in_words


@dataclass(frozen=True)
class Request:
    """What a job needs of its node.

    Attributes:
        cpus: CPUs.
        gpus: Share of a GPU, at most 1; 0 for none.
        memory: Bytes of memory.
        gpus_if_any: Whether the GPU is only needed if the cluster has any (``device = "auto"``).
    """

    cpus: int = 1
    gpus: float = 0.0
    memory: int = 0
    gpus_if_any: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """Resources as options of a remote function."""
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, "memory": self.memory}

    def of_cluster(self, nodes: Iterable[Node]) -> Request:
        """Return what is needed on a cluster of these nodes."""
        has_gpus = any(node.gpus for node in nodes)
        return replace(self, gpus=0.0) if self.gpus_if_any and not has_gpus else self

    def places(self, node: Node) -> int:
        """Return how many jobs a node can hold. Each takes its share from a single GPU."""
        counts = [node.cpus / self.cpus]
        if self.gpus:
            counts.append(math.floor(1 / self.gpus + 1e-9) * node.gpus)
        if self.memory:
            counts.append(node.memory / self.memory)
        return int(min(counts))


def check_places(request: Request, nodes: Iterable[Node]) -> None:
    """Check that a job fits on a node: Ray would wait for such a node for ever.

    Raises:
        UserError: It does not.
    """
    nodes = list(nodes)
    if not any(request.places(node) for node in nodes):
        there = "; ".join(f"{node.host}: {_resources(node.cpus, node.gpus, node.memory)}" for node in nodes)
        raise UserError(
            f"a run needs {_resources(request.cpus, request.gpus, request.memory)}, and no node of the Ray cluster has "
            f"them: {there or 'there is no node'} (lower --threads or --gpus-per-run, or add a node: ray start)"
        )


def _resources(cpus: float, gpus: float, memory: float) -> str:
    amounts = (f"{number:g} {kind}{'' if number == 1 else 's'}" for number, kind in ((cpus, "CPU"), (gpus, "GPU")))
    return f"{', '.join(amounts)}, {in_words(int(memory))} of memory"
