"""The engine ``ray``: a task of a Ray cluster for each job.

Each task is bound to one node, so that the engine knows where a job runs: Ray does not say so, and does not end the
tasks of a frozen node. The run is trained in the worker process itself: cancelling a task without ``force`` sends it
SIGINT, which saves the run.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from blip_rl.errors import RunError, UserError
from blip_rl.storage.lock import read_owner
from blip_rl.sweeps.job import Job, Outcome, run_job
from blip_rl.sweeps.ray_cluster import Node, RayCluster
from blip_rl.sweeps.ray_places import Request, check_places
from blip_rl.sweeps.ray_probe import NodeChecks, on_node

_LOOK_SECONDS = 2.0  # between two looks at the list of nodes
_EMPTY_SECONDS = 300.0  # without any node that could hold a run


@dataclass(frozen=True)
class _Placed:
    """A job on a node."""

    job: Job
    node: Node
    began: float

    @property
    def seconds(self) -> float:
        """Time since the job was submitted."""
        return time.monotonic() - self.began


class RayEngine:
    """Runs jobs as tasks of a Ray cluster."""

    def __init__(self, folder: Path, request: Request, *, address: str | None = None, most: int | None = None) -> None:
        """Create an engine; nothing is started yet.

        Args:
            folder: The sweep's folder, which all nodes share.
            request: What each job needs.
            address: ``HOST:PORT`` of the head node; None starts a cluster on this machine.
            most: Jobs at the same time; None: as many as there are places.

        Raises:
            UserError: The address is invalid.
        """
        self._cluster, self._folder = RayCluster(address), folder.absolute()
        self._request, self._most = request, most
        self._nodes: dict[str, Node] = {}
        self._unusable: set[str] = set()
        self._running: dict[Any, _Placed] = {}
        self._lost: set[str] = set()  # names of jobs whose last worker may still be alive
        self._stopping = False
        self._looked = self._had_places = 0.0

    def __enter__(self) -> Self:
        """Connect to the cluster and check its nodes.

        Raises:
            UserError: There is no cluster, no node is large enough for a job, or nodes do not share the sweep's folder
                or differ in versions or machine type.
        """
        self._cluster.__enter__()
        try:
            self._checks = NodeChecks(self._cluster, self._folder)
            alive = self._cluster.nodes()
            self._request = self._request.of_cluster(alive.values())
            check_places(self._request, alive.values())
            self._nodes = {id_: node for id_, node in alive.items() if self._request.places(node)}
            for problem in self._checks.check(self._nodes.values()).values():
                raise UserError(problem)
        except BaseException:
            self._cluster.__exit__(None, None, None)
            raise
        self._looked = self._had_places = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for ref in self._running:
            with suppress(Exception):  # the cluster may be gone
                self._ray.cancel(ref, force=True)
        self._running.clear()
        self._cluster.__exit__(kind, error, trace)

    @property
    def free(self) -> int:
        """Number of jobs that can start now."""
        total = sum(max(0, self._free_places(node)) for node in self._nodes.values())
        return total if self._most is None else max(0, min(total, self._most - len(self._running)))

    def submit(self, job: Job) -> None:
        """Start a job on the node with the most free places."""
        node = max(self._nodes.values(), key=self._free_places)
        if job.name in self._lost or self._owner_is_gone(job):
            job = replace(job, take_over=True)
        task = on_node(self._ray, work, node, **self._request.options)
        self._running[task.remote(job)] = _Placed(job, node, time.monotonic())

    def poll(self, seconds: float) -> list[Outcome]:
        """Return the outcomes of jobs that have ended; wait at most this long for the first.

        Raises:
            RunError: The cluster has had no node that could hold a job for several minutes, or cannot be reached.
        """
        ended = self._of_lost_nodes()
        if not self._running:
            time.sleep(0 if ended else seconds)
            return ended
        refs = list(self._running)
        if self._ray.wait(refs, timeout=0 if ended else seconds)[0]:
            ready = self._ray.wait(refs, num_returns=len(refs), timeout=0)[0]
            ended += [self._outcome(ref) for ref in ready]
        return ended

    def where(self, name: str) -> str:
        """Return the node of a job."""
        return next((placed.node.host for placed in self._running.values() if placed.job.name == name), "")

    def stop(self) -> None:
        """Ask all jobs to save and end: they receive SIGINT."""
        self._stopping = True
        for ref in self._running:
            self._ray.cancel(ref, force=False)

    @property
    def _ray(self) -> Any:
        return self._cluster.ray

    def _free_places(self, node: Node) -> int:
        return self._request.places(node) - sum(placed.node.id == node.id for placed in self._running.values())

    def _owner_is_gone(self, job: Job) -> bool:
        """Return whether a run is locked by a machine that the cluster has lost, when the sweep was started again."""
        owner = read_owner(job.path / ".lock")
        return owner is not None and owner.host in self._cluster.lost_hosts()

    def _of_lost_nodes(self) -> list[Outcome]:
        """Update the list of nodes, and return the jobs on those that died or froze as lost.

        The tasks of a frozen node do not end by themselves. If it wakes up, its jobs lose their runs to those that take
        them over (:class:`blip_rl.storage.lock.HeldLock`).
        """
        if time.monotonic() - self._looked < _LOOK_SECONDS:
            return []
        self._looked = time.monotonic()
        try:
            alive = self._cluster.nodes()
        except self._ray.exceptions.RayError as error:
            raise RunError(f"the Ray cluster cannot be reached any more: {error}") from error
        self._nodes = {id_: node for id_, node in self._nodes.items() if id_ in alive}
        self._add(node for id_, node in alive.items() if id_ not in self._nodes and id_ not in self._unusable)
        self._check_not_empty()
        gone = [ref for ref, placed in self._running.items() if placed.node.id not in alive]
        return [self._lost_with(self._running.pop(ref), "node {} died or does not answer") for ref in gone]

    def _add(self, new: Iterable[Node]) -> None:
        """Use nodes that have joined, if they are as the others."""
        large_enough = [node for node in new if self._request.places(node)]
        problems = self._checks.check(large_enough) if large_enough else {}
        for node in large_enough:
            if node.id in problems:
                self._unusable.add(node.id)
                warnings.warn(f"{problems[node.id]}: this node is not used", stacklevel=2)
            else:
                self._nodes[node.id] = node

    def _check_not_empty(self) -> None:
        if self._nodes:
            self._had_places = self._looked
        elif self._looked - self._had_places > _EMPTY_SECONDS:
            raise RunError(
                f"for {_EMPTY_SECONDS / 60:.0f} minutes no node of the Ray cluster has had room for a run (add a node: "
                "ray start; the same command then continues the sweep)"
            )

    def _outcome(self, ref: Any) -> Outcome:
        """Return how a task has ended."""
        placed, errors = self._running.pop(ref), self._ray.exceptions
        try:
            outcome: Outcome = self._ray.get(ref)
        except errors.TaskCancelledError:
            return Outcome(placed.job.name, "interrupted", "stopped", placed.seconds)
        except errors.OutOfMemoryError:
            return self._lost_with(placed, "node {} ran out of memory, so Ray ended the run (try fewer --jobs)")
        except errors.WorkerCrashedError:
            return self._lost_with(placed, "its process on node {} was killed, or crashed")
        except errors.RayTaskError as error:
            if self._stopping:  # stopped before the training handled signals
                return Outcome(placed.job.name, "interrupted", "stopped", placed.seconds)
            return Outcome(placed.job.name, "failed", f"{type(error.cause).__name__}: {error.cause}", placed.seconds)
        except errors.RayError as error:  # NodeDiedError, and others if it died at another moment
            self._unusable.add(placed.node.id)  # it may be listed for a while; a new node has a new id
            self._nodes.pop(placed.node.id, None)
            return self._lost_with(placed, f"node {{}} died ({type(error).__name__})")
        self._lost.discard(placed.job.name)
        return outcome

    def _lost_with(self, placed: _Placed, message: str) -> Outcome:
        self._lost.add(placed.job.name)
        self._cluster.keep_logs = True
        text = message.format(placed.node.host) + (f"; Ray's logs: {self._cluster.logs}" if self._cluster.logs else "")
        return Outcome(placed.job.name, "lost", text, placed.seconds)


def work(job: Job) -> Outcome:
    """Run a job in a process of a node, before anything has imported torch."""
    os.environ.update(OMP_NUM_THREADS=str(job.threads), OMP_WAIT_POLICY="passive")  # docs/performance.md
    return run_job(job)
