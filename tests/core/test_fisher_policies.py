"""Fisher: expectations over actions, non-categorical policies, and absence of side effects."""

import copy

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Categorical, Independent, Normal

from blip_rl.core.fisher import diagonal_fisher
from tests.core.oracles import fisher_enumerated, fisher_of_actions


def small_trunk():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3), nn.ReLU(inplace=True)).double()


def small_conv():
    return nn.Sequential(nn.Conv2d(2, 3, 2, stride=2), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(12, 3)).double()


def peaked_head(actions=4):
    """Policies far from uniform, so that weights of actions matter."""
    head = nn.Linear(3, actions).double()
    with torch.no_grad():
        head.weight.mul_(6)
    return head


def states(count, *shape):
    return torch.randn(count, *shape, dtype=torch.float64)


def assert_close(actual, expected, rtol, of_largest=0.0):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        atol = of_largest * value.abs().max().item() + 1e-18
        torch.testing.assert_close(actual[name], value.detach(), rtol=rtol, atol=atol)


# --- expectation over actions


@pytest.mark.parametrize(("build", "shape"), [(small_trunk, (3,)), (small_conv, (2, 4, 4))])
@pytest.mark.parametrize("actions", [1, 2, 6])
def test_exact_sums_over_all_actions(build, shape, actions):
    trunk, head, observations = build(), peaked_head(actions), states(7, *shape)
    fisher = diagonal_fisher(trunk, head, observations, expectation="exact", chunk_samples=3)
    assert_close(fisher, fisher_enumerated(trunk, head, observations), rtol=1e-9)
    assert any(value.any() for value in fisher.values()) == (actions > 1)


@pytest.mark.parametrize(("build", "shape"), [(small_trunk, (3,)), (small_conv, (2, 4, 4))])
def test_reversed_logits_measure_the_opposite_policy_on_the_actions_of_the_policy(build, shape):
    trunk, head, observations = build(), peaked_head(), states(7, *shape)
    found = diagonal_fisher(trunk, head, observations, expectation="exact", reverse_logits=True, chunk_samples=3)
    assert_close(found, fisher_enumerated(trunk, head, observations, reverse_logits=True), rtol=1e-9)
    actions = torch.randint(4, (7,))
    sampled = diagonal_fisher(trunk, head, observations, actions, reverse_logits=True)
    assert_close(sampled, fisher_of_actions(trunk, lambda y: -head(y), observations, actions), rtol=1e-9)


def test_reversed_logits_do_not_vanish_for_a_certain_policy():
    trunk, observations = small_trunk(), states(5, 3)
    bias = torch.tensor([0.0, 30.0, 10.0], dtype=torch.float64)
    plain, other = (
        diagonal_fisher(trunk, lambda y: y + bias, observations, expectation="exact", reverse_logits=reverse)
        for reverse in (False, True)
    )
    assert plain["2.bias"].max() < 1e-8
    assert other["2.bias"][1] == pytest.approx((trunk(observations)[:, 1] > 0).double().mean().item(), rel=1e-3)


def test_exact_takes_any_categorical_policy():
    trunk, head, observations = small_trunk(), peaked_head(), states(5, 3)
    plain = diagonal_fisher(trunk, head, observations, expectation="exact")
    for policy in (lambda y: Categorical(logits=head(y)), lambda y: Categorical(probs=head(y).softmax(1))):
        assert_close(diagonal_fisher(trunk, policy, observations, expectation="exact"), plain, rtol=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_many_draws_approach_the_exact_expectation(seed):
    trunk, head, observations = small_trunk(), peaked_head(), states(4, 3)
    exact = diagonal_fisher(trunk, head, observations, expectation="exact")
    many = observations.repeat(20_000, 1)
    generator = torch.Generator().manual_seed(seed)
    drawn = diagonal_fisher(trunk, head, many, generator=generator, chunk_samples=8192)
    assert_close(drawn, exact, rtol=0.05, of_largest=0.02)


def bernoulli(features):
    return Independent(Bernoulli(logits=features), 1)


def two_choices(features):
    """A multi-discrete policy as one distribution of several independent choices for each sample."""
    return Independent(Categorical(logits=features.repeat(1, 2).view(len(features), 2, -1)), 1)


POLICIES = {
    "categorical": lambda features: features,
    "categorical, explicit": lambda features: Categorical(logits=features),
    "gaussian": lambda features: Normal(features, torch.tensor(0.7)),
    "independent gaussian": lambda features: Independent(Normal(features, torch.tensor(0.7)), 1),
    "bernoulli": bernoulli,
    "multi-discrete": two_choices,
}


@pytest.mark.parametrize("seed", [3, None])
@pytest.mark.parametrize("policy", POLICIES)
def test_draws_do_not_depend_on_the_chunk_size(policy, seed):
    trunk, observations = nn.Linear(3, 5), torch.randn(70, 3)

    def fisher(chunk_samples):
        torch.manual_seed(8)
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        head = POLICIES[policy]
        return diagonal_fisher(trunk, head, observations, chunk_samples=chunk_samples, generator=generator)

    once = fisher(70)
    for chunk_samples in (1, 7, 16, 64, 1000):
        assert_close(fisher(chunk_samples), once, rtol=1e-4)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_generator_decides_the_draws_and_the_global_one_is_left_alone(policy):
    trunk, observations = nn.Linear(3, 5), torch.randn(20, 3)
    before = torch.get_rng_state()
    weights = [
        diagonal_fisher(trunk, POLICIES[policy], observations, generator=torch.Generator().manual_seed(seed))["weight"]
        for seed in (1, 1, 2)
    ]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


# --- Gaussian policies


def gaussian_head(independent):
    mean, deviation = nn.Linear(3, 2).double(), torch.tensor([0.5, 2.0], dtype=torch.float64)

    def head(features):
        policy = Normal(mean(features), deviation)
        return Independent(policy, 1) if independent else policy

    return head


@pytest.mark.parametrize("independent", [True, False])
def test_a_gaussian_policy_sums_over_its_action_dimensions(independent):
    trunk, head, observations, actions = small_trunk(), gaussian_head(independent), states(9, 3), states(9, 2)
    fisher = diagonal_fisher(trunk, head, observations, actions, chunk_samples=4)
    assert_close(fisher, fisher_of_actions(trunk, head, observations, actions), rtol=1e-10)


def test_draws_from_a_gaussian_policy_approach_its_known_fisher():
    """y = Wx + β with a ∼ N(y, σ²): F = x²/σ² of W and 1/σ² of β."""
    trunk, deviation = nn.Linear(3, 2).double(), torch.tensor([0.5, 2.0], dtype=torch.float64)
    state = states(1, 3)
    fisher = diagonal_fisher(trunk, lambda y: Normal(y, deviation), state.repeat(60_000, 1), chunk_samples=8192)
    expected = {"weight": state.square() / deviation[:, None].square(), "bias": deviation**-2}
    assert_close(fisher, expected, rtol=0.03)


# --- no side effects


def snapshot(module):
    return copy.deepcopy(module.state_dict())


def assert_untouched(module, before):
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in module.modules())


@pytest.mark.parametrize("expectation", ["sampled", "exact"])
def test_measuring_leaves_the_network_as_it_was(expectation):
    trunk, head, observations = small_trunk(), peaked_head(), states(5, 3)
    before = snapshot(trunk), snapshot(head), observations.clone()
    diagonal_fisher(trunk, head, observations, expectation=expectation)
    assert_untouched(trunk, before[0])
    assert_untouched(head, before[1])
    assert torch.equal(observations, before[2])
    assert all(parameter.requires_grad for parameter in trunk.parameters())


def test_a_failure_halfway_leaves_no_hooks():
    trunk = small_trunk()
    before = snapshot(trunk)

    def failing_head(features):
        raise KeyError("head")

    with pytest.raises(KeyError, match="head"):
        diagonal_fisher(trunk, failing_head, states(5, 3))
    assert_untouched(trunk, before)


@pytest.mark.parametrize("frozen", [["0"], ["2"], ["0", "2"]])
def test_layers_that_need_no_gradient_are_measured_too(frozen):
    trunk, head, observations = small_trunk(), peaked_head(), states(5, 3)
    expected = diagonal_fisher(trunk, head, observations, expectation="exact")
    for name in frozen:
        trunk.get_submodule(name).requires_grad_(False)
    assert_close(diagonal_fisher(trunk, head, observations, expectation="exact"), expected, rtol=1e-12)
    needing = {name.split(".")[0] for name, parameter in trunk.named_parameters() if parameter.requires_grad}
    assert needing == {"0", "2"} - set(frozen)


def test_measuring_works_where_gradients_are_switched_off():
    trunk, head, observations = small_trunk(), peaked_head(), states(5, 3)
    expected = diagonal_fisher(trunk, head, observations, expectation="exact")
    with torch.no_grad():
        assert_close(diagonal_fisher(trunk, head, observations, expectation="exact"), expected, rtol=1e-12)
        assert not torch.is_grad_enabled()


# --- refusals


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3).double()

    def forward(self, x):
        return self.layer(torch.tanh(self.layer(x)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observations": states(0, 3)}, "0 observations: .* at least one"),
        ({"chunk_samples": 0}, "chunk_samples 0: expected at least 1"),
        ({"expectation": "all"}, "expectation 'all': expected 'sampled' or 'exact'"),
        ({"actions": torch.zeros(4, dtype=torch.long)}, "4 actions for 5 observations"),
        ({"actions": torch.zeros(5, dtype=torch.long), "expectation": "exact"}, "leave actions out"),
        ({"head": gaussian_head(independent=True), "expectation": "exact"}, "'exact' with a Independent policy"),
        ({"head": gaussian_head(independent=True), "reverse_logits": True}, "reverse_logits with a Independent policy"),
        ({"trunk": Twice()}, "layer 'layer' is used twice"),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_wrong_arguments_are_refused(changes, message):
    arguments = {"trunk": small_trunk(), "head": peaked_head(), "observations": states(5, 3)} | changes
    with pytest.raises(ValueError, match=message):
        diagonal_fisher(**arguments)


@pytest.mark.parametrize(
    ("trunk", "message"),
    [
        (nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)), "layer '1' is a LayerNorm"),
        (nn.Sequential(nn.Conv1d(3, 4, 1)), "layer '0' is a Conv1d"),
        (nn.LSTM(3, 4), "layer 'trunk' is a LSTM"),
        (nn.Sequential(nn.Conv2d(3, 4, 1, padding_mode="circular")), "layer '0' pads with 'circular'"),
        (nn.Tanh(), "no nn.Linear or nn.Conv2d layer"),
    ],
)
def test_networks_without_a_closed_form_are_refused(trunk, message):
    with pytest.raises(TypeError, match=message):
        diagonal_fisher(trunk, lambda y: y, torch.randn(5, 3))
