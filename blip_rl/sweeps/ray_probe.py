"""What is checked on each node of a cluster before it gets a run: the shared folder, versions and machine type."""

from __future__ import annotations

import platform
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from blip_rl.storage.versions import versions
from blip_rl.sweeps.ray_cluster import Node, RayCluster

_SECONDS = 120.0  # for a node that starts its first worker; the files that it reads may be on a busy network disk


def probe(folder: str, name: str, node: str) -> dict[str, str]:
    """Run on a node: read what the sweep has written in its folder, answer there, and return what results depend on.

    Args:
        folder: The sweep's folder.
        name: Name of a file in it.
        node: Id of the node.
    """
    path = Path(folder, name)
    path.with_name(f"{name}-{node}").write_text(path.read_text(encoding="utf-8") + node, encoding="utf-8")
    return {**versions(), "machine": platform.machine()}


class NodeChecks:
    """Checks nodes of a cluster, each once, against each other."""

    def __init__(self, cluster: RayCluster, folder: Path) -> None:
        """Prepare the checks.

        Args:
            cluster: The connected cluster.
            folder: The sweep's folder, which every node has to share.
        """
        self._cluster, self._folder = cluster, folder
        self._first: tuple[Node, dict[str, str]] | None = None

    def check(self, nodes: Iterable[Node]) -> dict[str, str]:
        """Return id → what is wrong with a node, for those that cannot be used."""
        name, text = f".ray-{secrets.token_hex(8)}", secrets.token_hex(8)
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            (self._folder / name).write_text(text, encoding="utf-8")
            asked = [(node, self._ask(node, name)) for node in nodes]
            found = {node.id: self._problem(node, answer, name, text) for node, answer in asked}
        finally:
            for file in self._folder.glob(f"{name}*"):
                file.unlink(missing_ok=True)
        return {node: problem for node, problem in found.items() if problem}

    def _ask(self, node: Node, name: str) -> Any:
        ray = self._cluster.ray
        return on_node(ray, probe, node, num_cpus=0).remote(str(self._folder), name, node.id)

    def _problem(self, node: Node, answer: Any, name: str, text: str) -> str:
        ray = self._cluster.ray
        try:
            found: dict[str, str] = ray.get(answer, timeout=_SECONDS)
            seen = (self._folder / f"{name}-{node.id}").read_text(encoding="utf-8")
        except ray.exceptions.RayTaskError as error:
            return self._failure(node, error.cause)
        except ray.exceptions.RayError as error:
            return f"node {node.host} does not answer: {type(error).__name__}"
        except FileNotFoundError:
            seen = ""
        if seen != text + node.id:
            return self._unshared(node)
        if self._first is None:
            self._first = node, found
        return _difference(*self._first, node, found)

    def _failure(self, node: Node, error: BaseException) -> str:
        if isinstance(error, FileNotFoundError):
            return self._unshared(node)
        hint = " (install the same blip-rl on every node)" if isinstance(error, ImportError) else ""
        return f"node {node.host}: {error}{hint}"

    def _unshared(self, node: Node) -> str:
        return (
            f"node {node.host} does not share '{self._folder}': expected a folder that all nodes see at the same path, "
            "on a POSIX file system (NFS, Lustre, ...; not an object store)"
        )


def _difference(first: Node, expected: dict[str, str], node: Node, found: dict[str, str]) -> str:
    different = [f"{name} {expected[name]} and {value}" for name, value in found.items() if expected.get(name) != value]
    if not different:
        return ""
    return (
        f"nodes {first.host} and {node.host} differ: {', '.join(different)} (expected the same everywhere, because the "
        "results of a run would depend on where it runs)"
    )


def on_node(ray: Any, function: Callable[..., Any], node: Node, **resources: float) -> Any:
    """Return a function as a remote function of one node, with a fresh process for each call and no retries."""
    strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node.id, soft=False)
    options: dict[str, Any] = {"max_calls": 1, "max_retries": 0, "scheduling_strategy": strategy, **resources}
    return ray.remote(**options)(function)
