"""EWC and online EWC against their penalty written out, task by task, with its gradient from autograd."""

import gymnasium
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load, save
from torch import nn

from blip_rl.core.fisher import diagonal_fisher
from blip_rl.errors import UserError
from blip_rl.methods.base import FinishedTask, MethodState, attached
from blip_rl.methods.ewc import Ewc
from blip_rl.methods.ewc_online import EwcOnline
from blip_rl.methods.finetune import Finetune
from tests.methods.small_tasks import TRUNKS, Task, conv, copies, forgetting, learn, mlp, three_tasks

trunks = pytest.mark.parametrize("name", TRUNKS)
both = pytest.mark.parametrize("kind", [Ewc, EwcOnline])
EXACT = {"fisher_expectation": "exact"}  # so that the oracle's Fisher is the method's


def penalty(kind, trunk, anchors, strength, gamma=1.0):
    """The publications' penalty, one anchor and one Fisher for each task, in float64."""
    total, tasks = torch.zeros((), dtype=torch.float64), len(anchors)
    for k, (anchor, fisher) in enumerate(anchors):
        for name, parameter in trunk.named_parameters():
            centre = anchor if kind is Ewc else anchors[-1][0]
            decay = 1.0 if kind is Ewc else gamma ** (tasks - 1 - k)
            total = total + (decay * fisher[name].double() * (parameter.double() - centre[name].double()) ** 2).sum()
    return 0.5 * strength * total


def learn_three(method, name, steps=25):
    """Three tasks and what the oracle remembers of each: weights and Fisher."""
    trunk, anchors = TRUNKS[name][0](), []
    for task in three_tasks(name):
        learn(method, trunk, task, steps)
        fisher = diagonal_fisher(trunk, task.head, task.observations, expectation="exact")
        anchors.append((copies(trunk), fisher))
    return trunk, anchors


def moved(trunk, distance):
    """A trunk away from its anchors, so that the penalty has a gradient."""
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=distance)
    return trunk


def added_gradients(method, trunk):
    """What the method adds to gradients of zero."""
    for parameter in trunk.parameters():
        parameter.grad = torch.zeros_like(parameter)
    method.start_task(trunk)
    for name, parameter in trunk.named_parameters():
        method.add_gradient(name, parameter)
    return {name: parameter.grad for name, parameter in trunk.named_parameters()}


def remember(method, trunk, fisher):
    """End a task whose Fisher is given."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FinishedTask, "fisher", lambda *_: {name: value.clone() for name, value in fisher.items()})
        nothing = torch.empty(0)
        method.end_task(FinishedTask(trunk, nn.Identity(), nothing, nn.Identity(), torch.Generator()))


def assert_gradients_are(found, trunk, expected_penalty, tolerance):
    """Errors in units of the parameter's largest entry."""
    expected = torch.autograd.grad(expected_penalty, list(trunk.parameters()))
    for name, value in zip(found, expected, strict=True):
        assert value.abs().max() > 0
        torch.testing.assert_close(found[name], value.float(), rtol=0, atol=tolerance * value.abs().max().item())


# --- the gradient


@trunks
@both
@pytest.mark.parametrize("distance", [0.1, 1e-3])
def test_the_gradient_is_that_of_the_penalty_written_out(name, kind, distance):
    """float32 carries 6e-8; the tolerance leaves room for the differences of nearly equal weights."""
    method = kind(strength=30.0, **EXACT)
    trunk, anchors = learn_three(method, name)
    found = added_gradients(method, moved(trunk, distance))
    assert_gradients_are(found, trunk, penalty(kind, trunk, anchors, 30.0), 1e-5)


@trunks
@both
def test_the_gradient_is_the_same_after_saving_and_loading(name, kind):
    method, loaded = kind(strength=30.0), kind(strength=30.0)
    trunk, _ = learn_three(method, name, steps=5)
    state = method.state()
    contiguous = {key: tensor.contiguous() for key, tensor in state.tensors.items()}
    loaded.load_state(MethodState(load(save(contiguous)), dict(state.values)))
    moved(trunk, 0.1)
    expected = {name: gradient.clone() for name, gradient in added_gradients(method, trunk).items()}
    found = added_gradients(loaded, trunk)
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())


@pytest.mark.parametrize("distance", [0.1, 1e-2, 1e-3, 1e-4])
def test_twenty_anchors_close_to_each_other_lose_no_digits(distance):
    """Where sums such as F·θ − Σ F_k θ*_k cancel: weights of 0.3 whose anchors are ``distance`` apart."""
    generator = torch.Generator().manual_seed(0)
    trunk, method, anchors = nn.Linear(40, 50), Ewc(strength=1.0), []
    start, fisher = copies(trunk), {}
    for _ in range(20):
        for name, parameter in trunk.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data = start[name] + distance * noise
            fisher[name] = torch.exp(3 * torch.randn(parameter.shape, generator=generator) - 6)
        remember(method, trunk, fisher)
        anchors.append((copies(trunk), dict(fisher)))
    found = added_gradients(method, moved(trunk, distance))
    assert_gradients_are(found, trunk, penalty(Ewc, trunk, anchors, 1.0), 3e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_gamma_lets_earlier_fishers_fade(gamma):
    method = EwcOnline(strength=2.0, gamma=gamma, **EXACT)
    trunk, anchors = learn_three(method, "mlp")
    found = added_gradients(method, moved(trunk, 0.1))
    assert_gradients_are(found, trunk, penalty(EwcOnline, trunk, anchors, 2.0, gamma), 1e-5)


def test_one_earlier_task_is_the_same_for_both():
    gradients = []
    for kind in (Ewc, EwcOnline):
        torch.manual_seed(0)
        method, trunk = kind(strength=3.0, **EXACT), mlp()
        learn(method, trunk, Task((5,), seed=1))
        gradients.append(added_gradients(method, moved(trunk, 0.1)))
    assert all(torch.equal(gradient, gradients[1][name]) for name, gradient in gradients[0].items())


def test_the_penalty_is_there_before_the_norm_is_clipped():
    """Its gradient is thousands; an optimizer that sees a norm of 0.5 was handed both, clipped together."""
    method, trunk = Ewc(strength=1e6), mlp()
    first, second, _ = three_tasks("mlp")
    learn(method, trunk, first)
    moved(trunk, 0.1)
    optimizer = torch.optim.SGD(trunk.parameters(), lr=0.01)
    with attached(method, trunk, optimizer):
        second.loss(trunk).backward()
        before = nn.utils.clip_grad_norm_(trunk.parameters(), 0.5)
        after = nn.utils.get_total_norm([p.grad for p in trunk.parameters()])
        start = copies(trunk)
        optimizer.step()
    assert before > 100
    assert after == pytest.approx(0.5, rel=1e-4)
    step = torch.cat([(value - start[name]).flatten() for name, value in copies(trunk).items()]).norm()
    assert step == pytest.approx(0.005, rel=1e-3)


def test_a_weight_that_no_task_needs_is_free_and_its_anchor_a_number():
    """Observations of zero say nothing about the first layer's weights: Fisher 0, and 0/0 must not appear."""
    method, trunk = Ewc(strength=10.0), mlp()
    for seed in (1, 2):
        learn(method, trunk, Task((5,), seed=seed, scale=0.0), steps=3)
    found = added_gradients(method, moved(trunk, 0.1))
    assert not found["0.weight"].any()
    assert found["0.bias"].any()
    assert all(torch.isfinite(tensor).all() for tensor in method.state().tensors.values())


@both
def test_a_strength_of_zero_is_fine_tuning(kind):
    weights = []
    for method in (kind(strength=0.0), kind(strength=50.0)):
        torch.manual_seed(0)
        trunk = mlp()
        for task in three_tasks("mlp"):
            learn(method, trunk, task, steps=5)
        weights.append(copies(trunk))
    torch.manual_seed(0)
    plain = mlp()
    for task in three_tasks("mlp"):
        optimizer = torch.optim.Adam([*plain.parameters(), *task.head.parameters()], lr=0.02)
        for _ in range(5):
            optimizer.zero_grad()
            task.loss(plain).backward()
            optimizer.step()
    assert all(torch.equal(value, weights[0][name]) for name, value in copies(plain).items())
    assert not torch.equal(weights[0]["0.weight"], weights[1]["0.weight"])


# --- what it is for


@both
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_first_task_is_forgotten_less_than_by_fine_tuning(kind, seed):
    """Measured over eight seeds: the first task's loss grows by 2.77 to 3.56 in fine-tuning, here by 0.00 to 0.22."""
    growth = {}
    for method in (Finetune(), kind(strength=100.0)):
        torch.manual_seed(seed)
        growth[type(method)] = forgetting(method, "mlp")
    assert growth[Finetune] > 2.0
    assert growth[kind] < 0.6


# --- figures, memory, samples


@both
def test_the_figures_are_the_penalty_at_the_end_and_the_mean_fisher(kind):
    method, trunk = kind(strength=5.0, **EXACT), mlp()
    first, second, _ = three_tasks("mlp")
    third = Task((5,), seed=3)
    figures = learn(method, trunk, first)
    fisher = diagonal_fisher(trunk, first.head, first.observations, expectation="exact")
    mean = torch.cat([f.flatten() for f in fisher.values()]).mean().item()
    assert figures == {"penalty": 0.0, "mean_fisher": pytest.approx(mean)}
    anchors = [(copies(trunk), fisher)]
    for task in (second, third):
        figures = learn(method, trunk, task)
        assert figures["penalty"] == pytest.approx(penalty(kind, trunk, anchors, 5.0).item(), rel=1e-4)
        anchors.append((copies(trunk), diagonal_fisher(trunk, task.head, task.observations, expectation="exact")))


@pytest.mark.parametrize(("kind", "size_bytes"), [(Ewc, 12), (EwcOnline, 8)])
@pytest.mark.parametrize("tasks", [1, 3])
def test_the_state_is_as_large_for_three_tasks_as_for_one(kind, size_bytes, tasks):
    method, trunk = kind(), conv()
    for task in three_tasks("conv")[:tasks]:
        learn(method, trunk, task, steps=2)
    size = sum(tensor.numel() * tensor.element_size() for tensor in method.state().tensors.values())
    assert size == size_bytes * sum(parameter.numel() for parameter in trunk.parameters())
    assert method.state().values["tasks_seen"] == tasks


@both
def test_later_training_does_not_change_a_saved_state(kind):
    method, trunk = kind(), mlp()
    first, second, _ = three_tasks("mlp")
    learn(method, trunk, first)
    taken = method.state()
    before = {key: tensor.clone() for key, tensor in taken.tensors.items()}
    learn(method, trunk, second)
    assert all(torch.equal(tensor, before[key]) for key, tensor in taken.tensors.items())


def test_the_number_of_observations_is_that_of_the_settings():
    assert Ewc().samples_wanted == EwcOnline().samples_wanted == 2000
    assert Ewc(fisher_samples=7).samples_wanted == 7


def test_a_fisher_that_is_not_finite_stops_the_run():
    """Logits of 0 with a slope of 1e25, whose square is beyond float32."""
    trunk, task = mlp(), Task((5,), seed=1)
    generator = torch.Generator().manual_seed(0)
    blown = FinishedTask(trunk, lambda x: (x * 1e25) - (x * 1e25).detach(), task.observations, lambda x: x, generator)
    with pytest.raises(FloatingPointError, match=r"the Fisher of '.*' is not finite"):
        Ewc().end_task(blown)


# --- what is refused


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (Ewc, {"strength": -1}, r"strength\n.*greater than or equal to 0 .*input_value=-1"),
        (Ewc, {"strength": float("inf")}, "strength"),
        (Ewc, {"strength": True}, r"True: expected a number"),
        (Ewc, {"fisher_samples": 0}, r"fisher_samples\n.*greater than or equal to 1 .*input_value=0"),
        (Ewc, {"fisher_expectation": "both"}, "'sampled' or 'exact'"),
        (Ewc, {"gamma": 0.5}, "gamma"),
        (EwcOnline, {"gamma": 1.5}, r"gamma\n.*less than or equal to 1 .*input_value=1.5"),
        (EwcOnline, {"gamma": -0.1}, r"gamma\n.*greater than or equal to 0 .*input_value=-0.1"),
        (EwcOnline, {"strength": float("nan")}, "strength"),
    ],
)
def test_wrong_settings_are_refused(kind, settings, message):
    with pytest.raises(ValidationError, match=message):
        kind(**settings)


@both
def test_an_exact_expectation_over_continuous_actions_is_refused_before_training(kind):
    discrete, continuous = gymnasium.spaces.Discrete(3), gymnasium.spaces.Box(-1, 1, (2,))
    kind(**EXACT).check_task("pole", discrete)
    with pytest.raises(UserError, match=r"task 'pendulum' has Box actions: .* needs a Discrete"):
        kind(**EXACT).check_task("pendulum", continuous)
    kind().check_task("pendulum", continuous)


@both
@pytest.mark.parametrize(
    ("trunk", "message"),
    [
        (nn.Sequential(nn.Linear(5, 12)), r"state for '2\.\w+', which this trunk does not have"),
        (nn.Sequential(*mlp(), nn.Linear(8, 8)), r"the saved state has no '4\.weight\.fisher'"),
        (nn.Sequential(nn.Linear(5, 13), nn.Tanh(), nn.Linear(13, 8)), r"'0\.weight\.fisher' is \(12, 5\), expected"),
    ],
)
def test_a_state_of_another_network_is_refused(kind, trunk, message):
    method = kind()
    learn(method, mlp(), three_tasks("mlp")[0], steps=2)
    loaded = kind()
    loaded.load_state(method.state())
    for _ in range(2):  # a refusal must not use the state up
        with pytest.raises(ValueError, match=message):
            loaded.start_task(trunk)
