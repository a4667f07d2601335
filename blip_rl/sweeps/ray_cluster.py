"""A connection to a Ray cluster: one that is running, or a new one on this machine. Imports Ray when it connects."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from blip_rl.errors import RunError, UserError
from blip_rl.extras import install_command
from blip_rl.sweeps.ray_processes import ending_processes

_CONNECT_SECONDS = 5.0
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent unless the user has asked for it
    # When a daemon dies, Ray prints a page of what it logged between the lines of the sweep's table. Lines that match
    # are skipped; the engine says itself what has died.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
}
"""Read by Ray when it is imported."""
_OBJECT_STORE_BYTES = 100 * 2**20  # of a cluster on this machine: jobs and outcomes are small


@dataclass(frozen=True)
class Node:
    """A machine of the cluster.

    Attributes:
        id: Ray's name for it, which is a new one each time that Ray starts on the machine.
        host: Name of the machine.
        cpus: Number of CPUs that Ray may use.
        gpus: Number of GPUs that Ray may use.
        memory: Bytes of memory that Ray may give to tasks.
    """

    id: str
    host: str
    cpus: float
    gpus: float
    memory: float


class RayCluster:
    """A context manager that connects to a cluster, and starts and ends one if there is no address.

    Attributes:
        ray: The package, while connected.
        logs: Folder with Ray's logs if it is started on this machine; removed at the end.
        keep_logs: Whether to keep them, because something went wrong.
    """

    ray: Any

    def __init__(self, address: str | None) -> None:
        """Prepare a connection.

        Args:
            address: ``HOST:PORT`` of the head node; None starts a cluster on this machine.

        Raises:
            UserError: The address is not one.
        """
        self._address = None if address is None else _parsed(address)
        self._connected = ExitStack()
        self.logs: str | None = None
        self.keep_logs = False

    def __enter__(self) -> Self:
        """Connect.

        Raises:
            UserError: Ray is not installed or already in use, or there is no cluster at the address.
            RunError: A cluster on this machine does not start.
        """
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self.ray = _import_ray()
        if self._address is not None:
            _check_reachable(*self._address)
        with ExitStack() as opened:
            if self.ray.is_initialized():
                raise UserError("Ray is in use by this process: call ray.shutdown() before the sweep")
            opened.callback(self._remove_logs)  # after the processes that write them have ended
            opened.callback(self._disconnect)
            before = signal.getsignal(signal.SIGTERM)
            try:
                self._connect()
            finally:
                if threading.current_thread() is threading.main_thread():
                    signal.signal(signal.SIGTERM, before)  # Ray replaces it by one that ends the process
            self._connected = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connected.close()

    def nodes(self) -> dict[str, Node]:
        """Return the nodes that are alive, by id; a frozen one is not, about a minute after it froze."""
        return {node.id: node for node in map(_node, self.ray.nodes()) if node is not None}

    def lost_hosts(self) -> set[str]:
        """Return the names of machines that were part of the cluster, and of which no node is alive."""
        hosts = {str(each["NodeManagerHostname"]) for each in self.ray.nodes()}
        return hosts - {node.host for node in self.nodes().values()}

    def _disconnect(self) -> None:
        with ending_processes() if self._address is None else nullcontext():
            self.ray.shutdown()

    def _remove_logs(self) -> None:
        if self.logs is not None and not self.keep_logs:
            shutil.rmtree(self.logs, ignore_errors=True)

    def _connect(self) -> None:
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self._address is None:
            # A folder of its own, so that no earlier cluster is met and the logs can be removed. Not below TMPDIR: the
            # paths of sockets may have about a hundred characters.
            self.logs = tempfile.mkdtemp(prefix="blip-rl-ray-", dir=os.environ.get("RAY_TMPDIR", "/tmp"))
            own: dict[str, Any] = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
            try:
                self.ray.init(address="local", _temp_dir=self.logs, **own, **quiet)
            except Exception as error:  # Ray raises this very type if a machine is too busy to start it in time
                self.keep_logs = True
                raise RunError(f"Ray does not start: {_reason(error)} (its logs: {self.logs})") from error
            return
        address = ":".join(map(str, self._address))
        try:
            self.ray.init(address=address, **quiet)
        except Exception as error:  # ConnectionError, RuntimeError, ValueError and Ray's own
            # Ray must be started on the machine of the sweep, too: it places jobs through its local node.
            raise UserError(
                f"--address {address}: Ray cannot connect: {_reason(error)} (expected a cluster that this machine "
                "is part of, with the same versions of Ray and Python: ray start)"
            ) from error


def _reason(error: Exception) -> str:
    """Return the first line of an error's message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _parsed(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not (colon and host and "/" not in host and port.isascii() and port.isdecimal() and 0 < int(port) < 65_536):
        raise UserError(f"--address {address!r}: expected HOST:PORT of the head node, as ray start --head prints it")
    return host, int(port)


def _check_reachable(host: str, port: int) -> None:
    """Check that something listens at the address: Ray itself would try for more than half a minute."""
    try:
        socket.create_connection((host.strip("[]"), port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise UserError(
            f"--address {host}:{port}: nothing answers there: {error.strerror or error} (expected the head node of a "
            "running cluster: ray start --head prints its address)"
        ) from error


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UserError(f"--engine ray needs the package ray: {install_command('ray')}") from error
    return ray


def _node(described: dict[str, Any]) -> Node | None:
    """Return a node that is alive; ``described`` is an entry of ``ray.nodes()``."""
    if not described["Alive"]:
        return None
    resources = described["Resources"]
    amounts = [float(resources.get(kind, 0.0)) for kind in ("CPU", "GPU", "memory")]
    return Node(str(described["NodeID"]), str(described["NodeManagerHostname"]), *amounts)
