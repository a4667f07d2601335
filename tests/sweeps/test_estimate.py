"""How many runs fit on this machine at a time."""

import dataclasses
import functools
import math

import pytest

import blip_rl as br
from blip_rl.api import sweeping
from blip_rl.errors import UserError
from blip_rl.run.resources import ResourceEstimate
from blip_rl.sweeps import estimate
from blip_rl.sweeps.estimate import Needs, gpu_places, places, uses_gpu

GIGABYTE = 10**9


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine with 8 cores and 16 GB."""
    monkeypatch.setattr(estimate, "_cores", lambda: 8)
    monkeypatch.setattr(estimate, "memory_bytes", lambda: 16 * GIGABYTE)


def needs(*gigabytes, device="cpu"):
    sizes = [ResourceEstimate(0, 0, int(size * GIGABYTE)) for size in gigabytes]
    return {str(number): Needs(None, device, size) for number, size in enumerate(sizes)}


@pytest.mark.parametrize(
    ("given", "threads", "count"), [((1,), 1, 8), ((1,), 3, 2), ((1, 3), 1, 5), ((20,), 1, 1), ((1,), 16, 1)]
)
def test_as_many_runs_fit_as_there_are_cores_and_memory_for_the_largest(given, threads, count):
    assert places(needs(*given), threads, None, ()) == count


def test_more_runs_than_cores_may_be_asked_for_but_not_more_than_there_is_memory_for():
    assert places(needs(1), 1, 12, ()) == 12
    with pytest.raises(UserError, match=r"--jobs 6: a run needs at least 3 GB .* room for 5 at a time \(16 GB\)"):
        places(needs(3), 1, 6, ())


def test_runs_are_dealt_out_to_gpus():
    assert gpu_places(2, 1.0) == (0, 1)
    assert gpu_places(2, 0.4) == (0, 1, 0, 1)
    assert gpu_places(1, 1 / 3) == (0, 0, 0)
    assert places(needs(1, device="cuda"), 1, None, gpu_places(2, 1.0)) == 2
    with pytest.raises(
        UserError, match=r"room for 2 at a time \(2 on the GPUs \(--gpus-per-run\)\): expected at most 2"
    ):
        places(needs(1, device="cuda"), 1, 3, gpu_places(2, 1.0))


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5, math.nan])
@pytest.mark.parametrize("begin", [br.sweep, sweeping.sweep_plan, functools.partial(sweeping.search, trials=1)])
def test_a_share_of_a_gpu_that_no_run_can_take_is_refused_also_without_a_gpu(share, begin, tmp_path):
    plan = {"agents": ["ewc"], "sequences": ["cartpole4"], "seeds": "0", "device": "cpu"}
    with pytest.raises(UserError, match=f"gpus_per_run = {share:g}: expected more than 0 and at most 1"):
        begin(plan, out=tmp_path / "sweep", gpus_per_run=share)
    assert not (tmp_path / "sweep").exists()


def test_a_gpu_is_used_if_any_run_uses_one():
    cpu, gpu = needs(1)["0"], needs(1, device="cuda:1")["0"]
    assert uses_gpu({"a": cpu, "b": gpu})
    assert not uses_gpu({"a": cpu, "b": dataclasses.replace(gpu, device="cpu")})
