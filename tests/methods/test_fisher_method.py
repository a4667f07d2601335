import pytest
import torch
from torch import nn

from blip_rl.methods import make_method
from blip_rl.methods.base import FinishedTask

METHODS = {
    "ewc": {"strength": 1.0},
    "ewc-online": {"strength": 1.0},
    "blip": {"fisher_prior": 1e-8},
}


def finished(sharpness):
    """A task whose policy is a linear layer with logits of a given sharpness: the smaller, the larger its Fisher."""
    torch.manual_seed(0)
    trunk = nn.Linear(3, 2)
    return FinishedTask(
        trunk=trunk,
        head=lambda outputs: sharpness * outputs,
        observations=torch.randn(32, 3),
        preprocess=lambda observations: observations,
        generator=torch.Generator().manual_seed(0),
    )


def trace(fisher):
    return sum(value.sum().item() for value in fisher.values())


@pytest.mark.parametrize("name", METHODS)
def test_equal_scale_gives_every_task_the_trace_of_the_first(name):
    tasks = [finished(sharpness) for sharpness in (1.0, 0.1, 0.01)]
    method = make_method({"name": name, "fisher_expectation": "exact", "fisher_scale": "equal", **METHODS[name]})
    plain = make_method({"name": name, "fisher_expectation": "exact", **METHODS[name]})
    own = [plain.fisher_of(task) for task in tasks]
    assert trace(own[1]) < 0.1 * trace(own[0])
    for task, unscaled in zip(tasks, own, strict=True):
        scaled = method.fisher_of(task)
        assert trace(scaled) == pytest.approx(trace(own[0]))
        ratio = trace(own[0]) / trace(unscaled)
        assert all(torch.allclose(scaled[key], unscaled[key] * ratio) for key in scaled)


@pytest.mark.parametrize("name", METHODS)
def test_the_scale_is_part_of_the_state(name):
    settings = {"name": name, "fisher_expectation": "exact", "fisher_scale": "equal", **METHODS[name]}
    first, second = finished(1.0), finished(0.1)
    method = make_method(settings)
    method.start_task(first.trunk)
    method.end_task(first)
    loaded = make_method(settings)
    loaded.load_state(method.state())
    assert trace(loaded.fisher_of(second)) == pytest.approx(trace(method.fisher_of(second)))
    assert trace(loaded.fisher_of(second)) > 2 * trace(
        make_method(settings | {"fisher_scale": "own"}).fisher_of(second)
    )


def test_a_task_without_information_is_not_scaled_and_not_the_first():
    method = make_method({"name": "ewc", "fisher_expectation": "exact", "fisher_scale": "equal"})
    assert trace(method.fisher_of(finished(0.0))) == 0
    assert trace(method.fisher_of(finished(0.1))) == pytest.approx(trace(method.fisher_of(finished(0.01))))
