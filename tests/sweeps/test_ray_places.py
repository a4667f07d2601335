"""What the Ray engine decides without Ray: places on nodes, addresses, and its checks of nodes."""

import socket
import sys
from types import SimpleNamespace

import pytest

from blip_rl.errors import UserError
from blip_rl.sweeps.ray_cluster import Node, RayCluster
from blip_rl.sweeps.ray_places import Request, check_places

GB = 10**9
SMALL = Node("a", "small", cpus=2.0, gpus=0.0, memory=8.0 * GB)
LARGE = Node("b", "large", cpus=16.0, gpus=4.0, memory=64.0 * GB)


@pytest.mark.parametrize(
    ("request_", "count"),
    [
        (Request(cpus=1), 16),
        (Request(cpus=3), 5),
        (Request(cpus=1, gpus=1.0), 4),
        (Request(cpus=1, gpus=0.25), 16),
        (Request(cpus=1, gpus=0.4), 8),  # two on each GPU: no run takes parts of two GPUs
        (Request(cpus=1, gpus=1 / 3), 12),
        (Request(cpus=1, memory=10 * GB), 6),
        (Request(cpus=32), 0),
    ],
)
def test_a_node_holds_as_many_runs_as_cpus_gpus_and_memory_allow(request_, count):
    assert request_.places(LARGE) == count


def test_automatic_devices_use_gpus_only_if_the_cluster_has_any():
    wanted = Request(gpus=0.5, gpus_if_any=True)
    assert wanted.of_cluster([SMALL]).gpus == 0
    assert wanted.of_cluster([SMALL, LARGE]).gpus == 0.5
    assert Request(gpus=0.5).of_cluster([SMALL]).gpus == 0.5


def test_needs_that_no_node_can_meet_are_refused_with_what_the_nodes_have():
    check_places(Request(cpus=4), [SMALL, LARGE])
    with pytest.raises(UserError, match=r"needs 4 CPUs, 0\.5 GPUs.*small: 2 CPUs, 0 GPUs, 8 GB.*--gpus-per-run"):
        check_places(Request(cpus=4, gpus=0.5), [SMALL])
    with pytest.raises(UserError, match=r"needs 1 CPU, 1 GPU, "):
        check_places(Request(gpus=1.0), [SMALL])
    with pytest.raises(UserError, match="there is no node"):
        check_places(Request(), [])


@pytest.mark.parametrize(
    "address", ["head", "head:", ":6379", "head:port", "head:0", "head:99999", "ray://head:10001", ""]
)
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(UserError, match=r"--address '.*': expected HOST:PORT"):
        RayCluster(address)


@pytest.fixture
def no_ray_used(monkeypatch):
    """A package ray that fails if anything connects."""
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: pytest.fail("it connects")))


def test_an_address_where_nothing_listens_is_refused_at_once(no_ray_used):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UserError, match=rf"--address 127\.0\.0\.1:{port}: nothing answers there"):
        RayCluster(f"127.0.0.1:{port}").__enter__()


def test_a_missing_package_is_named_with_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"needs the package ray: .*pip install .*\[ray\]"):
        RayCluster(None).__enter__()


def test_ray_that_is_already_in_use_is_left_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: True))
    with pytest.raises(UserError, match="in use by this process"):
        RayCluster(None).__enter__()
