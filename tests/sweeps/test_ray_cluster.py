"""Sweeps on real Ray clusters of two nodes, with nodes and drivers that die or freeze. Needs the extra ``ray``."""

import os
import signal
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
pytest.importorskip("ray")

from ray.cluster_utils import Cluster

from blip_rl.run.train import train
from blip_rl.storage.lock import read_owner
from blip_rl.storage.run_folder import RunFolder
from tests.run.broken_off import CARTPOLES, assert_equal, process, wait_for
from tests.run.test_take_over import content
from tests.sweeps.small_sweeps import SEQUENCE, small_manifest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray's own
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for the workers of a node in /proc"),
]
STEPS = "3072"
SETTINGS = (*CARTPOLES, "checkpoint.every_steps=1024", "evaluation.every_steps=2048")
SEEDS = range(4)
NOTICED = {  # a frozen node is noticed after about 15 seconds instead of a minute
    "health_check_initial_delay_ms": 5_000,
    "health_check_period_ms": 1_000,
    "health_check_timeout_ms": 5_000,
    "health_check_failure_threshold": 2,
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The runs of the sweep, each made alone."""
    folder = tmp_path_factory.mktemp("alone")
    manifest = small_manifest(SETTINGS, seeds=list(SEEDS), steps=STEPS)
    for run in manifest.runs:
        train(manifest.config(run), out=folder / run.name, threads=1, quiet=True)
    return {run.name: folder / run.name for run in manifest.runs}


class TwoNodes:
    """A cluster of a head without CPUs and two nodes with one each."""

    def __init__(self):
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": NOTICED}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes = [self.cluster.add_node(num_cpus=1) for _ in range(2)]
        self.address = self.cluster.address

    def workers(self, node):
        """Return the processes of a node: its own, and the workers that train."""
        own = [one.process.pid for running in node.all_processes.values() for one in running]
        return [*own, *descendants(own)]

    def signal(self, node, number):
        for pid in self.workers(node):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def node_of(self, run):
        """Return the node on which a run is trained, and its process; None where it is not."""
        owner = read_owner(run / ".lock")
        for node in self.nodes:
            if owner is not None and owner.pid in self.workers(node):
                return node, owner.pid
        return None

    def a_training(self, folder):
        """Return node, process and folder of a run that has learned something since its first snapshot."""
        for run in sorted(folder.glob("*/")):
            if RunFolder(run).snapshots() and (found := self.node_of(run)):
                return *found, run
        return None


def descendants(pids):
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
    found, new = set(), set(pids)
    while new:
        new = {child for child, parent in parents.items() if parent in new} - found
        found |= new
    return found


@pytest.fixture
def two():
    nodes = TwoNodes()
    yield nodes
    for node in nodes.nodes:
        nodes.signal(node, signal.SIGCONT)
    nodes.cluster.shutdown()


def command(folder, *more, seeds="0-3"):
    import sys

    changes = [part for setting in SETTINGS for part in ("--set", setting)]
    asked = ["--agents", "finetune", "--games", SEQUENCE, "--seeds", seeds, "--steps", STEPS, "--device", "cpu"]
    return [sys.executable, "-m", "blip_rl", "sweep", *asked, *changes, "--out", str(folder), "--engine", "ray", *more]


@contextmanager
def sweeping(two, folder, *more):
    """Start a sweep; yield its process and the first run that is being trained."""
    with process(command(folder, "--address", two.address, *more)) as driver:
        found = []
        wait_for(driver, lambda: found.append(two.a_training(folder)) or found[-1], 300)
        yield driver, *found[-1]


def ended(driver, code=0, seconds=600):
    """Wait for the end of a process; return what it printed."""
    out, errors = driver.communicate(timeout=seconds)
    assert driver.returncode == code, (out, errors)
    print(out, errors)
    return out + errors


def gone(pid):
    status = Path(f"/proc/{pid}/stat")
    with suppress(OSError):
        return status.read_text().rpartition(")")[2].split()[0] in "ZX"
    return True


def assert_equal_to_those_alone(folder, alone):
    for name, run in alone.items():
        assert_equal(folder / name, run)
        assert (folder / name / "config.toml").read_bytes() == (run / "config.toml").read_bytes()


def test_runs_of_a_node_that_dies_go_on_on_another_and_equal_those_made_alone(two, alone, tmp_path):
    with sweeping(two, tmp_path / "sweep") as (driver, node, _, _):
        two.cluster.remove_node(node, allow_graceful=False)
        said = ended(driver)
    assert "died" in said
    assert "raylet" not in said  # Ray's own messages
    assert_equal_to_those_alone(tmp_path / "sweep", alone)


def test_a_frozen_node_loses_its_runs_and_changes_nothing_when_it_continues(two, alone, tmp_path):
    with sweeping(two, tmp_path / "sweep") as (driver, node, worker, _):
        two.signal(node, signal.SIGSTOP)
        ended(driver)
    assert_equal_to_those_alone(tmp_path / "sweep", alone)
    before = {name: content(tmp_path / "sweep" / name) for name in alone}
    assert not gone(worker)
    two.signal(node, signal.SIGCONT)
    wait_until(lambda: gone(worker))
    assert {name: content(tmp_path / "sweep" / name) for name in alone} == before


def test_a_sweep_whose_driver_is_killed_goes_on_with_the_same_command(two, alone, tmp_path):
    with sweeping(two, tmp_path / "sweep") as (driver, _, worker, _):
        driver.kill()
        driver.wait()
        began = time.monotonic()
        with process(command(tmp_path / "sweep", "--address", two.address)) as again:
            ended(again)
        print(f"the second command took {time.monotonic() - began:.0f} s")
    assert gone(worker)
    assert_equal_to_those_alone(tmp_path / "sweep", alone)


def test_ctrl_c_saves_every_run_and_the_same_command_goes_on(two, alone, tmp_path):
    with sweeping(two, tmp_path / "sweep") as (driver, _, _, run):
        began = time.monotonic()
        driver.send_signal(signal.SIGINT)
        wait_until(lambda: not any(map(read_owner, (tmp_path / "sweep").glob("*/.lock"))))
        print(f"saved after {time.monotonic() - began:.1f} s")
        said = ended(driver, 130)
    assert "continue with: blip-rl sweep" in said
    assert read_owner(run / ".lock") is None
    assert RunFolder(run).snapshots()
    with process(command(tmp_path / "sweep", "--address", two.address)) as again:
        ended(again)
    assert_equal_to_those_alone(tmp_path / "sweep", alone)


def test_a_killed_worker_is_replaced(two, alone, tmp_path):
    with sweeping(two, tmp_path / "sweep") as (driver, _, worker, _):
        os.kill(worker, signal.SIGKILL)
        said = ended(driver)
    assert "was killed, or crashed" in said
    assert_equal_to_those_alone(tmp_path / "sweep", alone)


def test_needs_that_no_node_can_meet_are_refused_and_nothing_is_written(two, tmp_path):
    with process(command(tmp_path / "sweep", "--address", two.address, "--threads", "2")) as driver:
        said = ended(driver, 2)
    assert "a run needs 2 CPUs" in said
    assert not (tmp_path / "sweep").exists()


def test_a_cluster_on_this_machine_is_started_and_leaves_nothing(alone, tmp_path):
    before = set(Path("/tmp").glob("blip-rl-ray-*"))
    with process(command(tmp_path / "sweep", seeds="0-1")) as driver:
        seen = set()
        wait_for(
            driver, lambda: seen.update(descendants([driver.pid])) or any((tmp_path / "sweep").glob("*/.steps")), 300
        )
        ended(driver)
    assert all(gone(pid) for pid in seen)
    assert set(Path("/tmp").glob("blip-rl-ray-*")) == before
    for name in list(alone)[:2]:
        assert_equal(tmp_path / "sweep" / name, alone[name])


def wait_until(condition, seconds=180):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.2)
