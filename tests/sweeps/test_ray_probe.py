"""The check of nodes before they get runs, with a Ray that calls its functions in this process."""

from types import SimpleNamespace

import pytest

from blip_rl.sweeps import ray_probe
from blip_rl.sweeps.ray_cluster import Node
from blip_rl.sweeps.ray_probe import NodeChecks, probe

NODES = [Node(name, f"host-{name}", 1.0, 0.0, 1e9) for name in "abc"]


class TaskError(Exception):
    def __init__(self, cause):
        super().__init__(str(cause))
        self.cause = cause


class DiedError(Exception):
    pass


def fake_cluster(answers):
    """Return a cluster whose nodes answer with what ``answers`` gives: a function instead of ``probe``."""

    def get(task, timeout):
        function, arguments = task
        try:
            return answers.get(arguments[2], function)(*arguments)
        except DiedError:
            raise
        except Exception as error:
            raise TaskError(error) from error

    def remote(**options):
        assert (options["max_calls"], options["max_retries"]) == (1, 0)
        return lambda function: SimpleNamespace(remote=lambda *arguments: (function, arguments))

    affinity = SimpleNamespace(NodeAffinitySchedulingStrategy=lambda node, soft: node)
    exceptions = SimpleNamespace(RayTaskError=TaskError, RayError=(TaskError, DiedError))
    ray = SimpleNamespace(
        get=get, remote=remote, exceptions=exceptions, util=SimpleNamespace(scheduling_strategies=affinity)
    )
    return SimpleNamespace(ray=ray)


def problems(tmp_path, answers):
    found = NodeChecks(fake_cluster(answers), tmp_path / "sweep").check(NODES)
    assert list((tmp_path / "sweep").iterdir()) == []
    return found


def test_equal_nodes_that_share_the_folder_can_be_used(tmp_path):
    assert problems(tmp_path, {}) == {}


def in_another_folder(folder, name, node):
    raise FileNotFoundError(name)


def with_another_folder_of_that_name(folder, name, node):
    return {**ray_probe.versions(), "machine": "x86_64"}


def without_the_package(folder, name, node):
    raise ModuleNotFoundError("No module named 'blip_rl'")


def dead(folder, name, node):
    raise DiedError


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (in_another_folder, "node host-b does not share '"),
        (with_another_folder_of_that_name, "node host-b does not share '"),
        (without_the_package, "node host-b: No module named 'blip_rl' (install the same blip-rl on every node)"),
        (dead, "node host-b does not answer: DiedError"),
    ],
)
def test_a_node_that_cannot_be_used_is_named_with_why(tmp_path, answer, message):
    found = problems(tmp_path, {"b": answer})
    assert list(found) == ["b"]
    assert found["b"].startswith(message)


@pytest.mark.parametrize(("name", "value"), [("torch", "2.0.0"), ("machine", "riscv64")])
def test_nodes_of_other_versions_or_machine_types_are_named_with_both(tmp_path, name, value):
    def other(*arguments):
        return {**probe(*arguments), name: value}

    found = problems(tmp_path, {"c": other})
    assert list(found) == ["c"]
    assert f"nodes host-a and host-c differ: {name} " in found["c"]
    assert f" and {value} (expected the same everywhere" in found["c"]
