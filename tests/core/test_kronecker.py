"""Kronecker factors against loops over samples, actions and positions; the penalty against its definition."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from blip_rl.core.fisher import diagonal_fisher
from blip_rl.core.kronecker import Factors, KroneckerPenalty, kronecker_fisher, layouts
from blip_rl.core.second_moment import LowRank
from tests.core.oracles import log_probability

ACTIONS, FULL = 5, 64
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


def dense(matrix):
    """RᵀR + ρ I written out."""
    return matrix.root.T @ matrix.root + matrix.rest * torch.eye(matrix.root.shape[1], dtype=matrix.root.dtype)


def conv(*args, **kwargs):
    return lambda: nn.Sequential(nn.Conv2d(*args, **kwargs), nn.Flatten())


VECTOR, ROWS, IMAGE = (6,), (3, 6), (4, 7, 6)
LAYERS = {
    "linear": (lambda: nn.Sequential(nn.Linear(6, 4), nn.Flatten()), VECTOR),
    "linear without bias": (lambda: nn.Sequential(nn.Linear(6, 4, bias=False), nn.Flatten()), VECTOR),
    "linear over rows": (lambda: nn.Sequential(nn.Linear(6, 5), nn.Flatten()), ROWS),
    "conv": (conv(4, 3, 3), IMAGE),
    "conv without bias": (conv(4, 3, 3, bias=False), IMAGE),
    "conv, all at once": (conv(4, 3, (3, 2), stride=(1, 2), padding=(2, 1), dilation=(1, 2)), IMAGE),
    "conv same": (conv(4, 3, (2, 4), padding="same"), IMAGE),
}


@pytest.fixture(params=LAYERS.values(), ids=LAYERS.keys())
def problem(request):
    """(one layer and a flatten, head, observations, actions) in float64."""
    build, shape = request.param
    trunk = build().double()
    observations = torch.randn(7, *shape, dtype=torch.float64)
    head = nn.Linear(trunk(observations).shape[1], ACTIONS).double()
    return trunk, head, observations, torch.randint(ACTIONS, (7,))


def inputs_by_position(layer, observation):
    """The input of the weight at each position, (positions, d), one position after the other."""
    if isinstance(layer, nn.Linear):
        return observation.reshape(-1, observation.shape[-1])
    padding = layer._reversed_padding_repeated_twice
    padded = F.pad(observation, padding)
    (kh, kw), (sh, sw), (dh, dw) = layer.kernel_size, layer.stride, layer.dilation
    height, width = layer(observation[None]).shape[2:]
    return torch.stack(
        [
            padded[:, r * sh : r * sh + dh * (kh - 1) + 1 : dh, c * sw : c * sw + dw * (kw - 1) + 1 : dw].reshape(-1)
            for r in range(height)
            for c in range(width)
        ]
    )


def output_gradients(trunk, head, observation, action):
    """δ at each position, (positions, outputs)."""
    layer = trunk[0]
    y = layer(observation[None]).detach().requires_grad_()
    (delta,) = torch.autograd.grad(log_probability(head(trunk[1](y)), action[None]), y)
    return delta[0].flatten(1).T if isinstance(layer, nn.Conv2d) else delta.reshape(-1, delta.shape[-1])


def written_out(trunk, head, observations, weighted):
    """A and G by loops; ``weighted(n)`` are the (action, weight) of sample n."""
    inputs = outputs = 0
    for n, observation in enumerate(observations):
        rows = inputs_by_position(trunk[0], observation)
        inputs = inputs + sum(torch.outer(x, x) for x in rows) / len(rows)
        for action, weight in weighted(n):
            deltas = output_gradients(trunk, head, observation, action)
            outputs = outputs + weight * sum(torch.outer(d, d) for d in deltas)
    return inputs / len(observations), outputs / len(observations)


def test_factors_of_taken_actions_equal_the_loops(problem):
    trunk, head, observations, actions = problem
    found = kronecker_fisher(trunk, head, observations, actions, chunk_samples=3, rank=FULL)
    inputs, outputs = written_out(trunk, head, observations, lambda n: [(actions[n], 1.0)])
    assert found.inputs.keys() == found.outputs.keys() == {"0.weight"}
    torch.testing.assert_close(dense(found.inputs["0.weight"]), inputs)
    torch.testing.assert_close(dense(found.outputs["0.weight"]), outputs)


def test_exact_expectation_weights_every_action_with_its_probability(problem):
    trunk, head, observations, _ = problem
    found = kronecker_fisher(trunk, head, observations, expectation="exact", chunk_samples=4, rank=FULL)
    with torch.no_grad():
        probabilities = head(trunk(observations)).softmax(1)
    _, outputs = written_out(
        trunk, head, observations, lambda n: [(torch.tensor(a), p) for a, p in enumerate(probabilities[n])]
    )
    torch.testing.assert_close(dense(found.outputs["0.weight"]), outputs)


def test_one_sample_gives_the_full_fisher_of_a_linear_layer():
    trunk, head = nn.Linear(6, 4).double(), nn.Linear(4, ACTIONS).double()
    observation, action = torch.randn(1, 6, dtype=torch.float64), torch.tensor([2])
    factors = kronecker_fisher(trunk, head, observation, action)
    gradients = torch.autograd.grad(log_probability(head(trunk(observation)), action), list(trunk.parameters()))
    penalty = KroneckerPenalty().after_task(factors, {n: p.detach() for n, p in trunk.named_parameters()})
    for (name, parameter), gradient in zip(trunk.named_parameters(), gradients, strict=True):
        move = torch.randn_like(parameter)
        moved = {n: p.detach() + (move if n == name else 0) for n, p in trunk.named_parameters()}
        assert penalty.at(moved) == pytest.approx(0.5 * float((gradient * move).sum()) ** 2)


def test_diagonal_of_one_linear_sample_is_the_diagonal_fisher():
    trunk, head = nn.Linear(6, 4).double(), nn.Linear(4, ACTIONS).double()
    observation, action = torch.randn(1, 6, dtype=torch.float64), torch.tensor([2])
    factors = kronecker_fisher(trunk, head, observation, action)
    diagonal = torch.outer(dense(factors.outputs["weight"]).diag(), dense(factors.inputs["weight"]).diag())
    torch.testing.assert_close(diagonal, diagonal_fisher(trunk, head, observation, action)["weight"])


def drawn_factors(trunk, seed):
    """Random positive semidefinite factors."""
    generator = torch.Generator().manual_seed(seed)

    def square(size):
        rows = torch.randn(size, size, generator=generator, dtype=torch.float64)
        return LowRank.nearest(rows, FULL, rest=0.3, dtype=torch.float64)

    weights = {n: p for n, p in trunk.named_parameters() if p.dim() > 1}
    return Factors(
        {n: square(p[0].numel()) for n, p in weights.items()}, {n: square(len(p)) for n, p in weights.items()}
    )


def moved(trunk, seed):
    generator = torch.Generator().manual_seed(seed)
    draw = {n: torch.randn(p.shape, generator=generator, dtype=torch.float64) for n, p in trunk.named_parameters()}
    return {n: p.detach() + draw[n] for n, p in trunk.named_parameters()}


TRUNKS = [lambda: nn.Linear(6, 4), lambda: nn.Conv2d(2, 3, 2), lambda: nn.Linear(3, 2, bias=False)]


@pytest.mark.parametrize("build", TRUNKS)
@pytest.mark.parametrize("tasks", [1, 3])
def test_penalty_is_the_quadratic_form_of_the_summed_factors_and_its_gradient(build, tasks):
    trunk = build().double()
    factors = [drawn_factors(trunk, seed) for seed in range(tasks)]
    penalty = KroneckerPenalty()
    for each in factors:
        anchor = moved(trunk, 5)
        penalty = penalty.after_task(each, anchor)
    weights = {name: weight.requires_grad_() for name, weight in moved(trunk, 9).items()}
    total = torch.zeros((), dtype=torch.float64)
    for name, weight in weights.items():
        of_weight = name.replace("bias", "weight")
        outputs = sum(dense(each.outputs[of_weight]) for each in factors)
        inputs = torch.eye(1, dtype=torch.float64)
        if weight.dim() > 1:
            inputs = sum(dense(each.inputs[name]) for each in factors)
        away = (weight - anchor[name]).reshape(-1)
        fisher = torch.kron(outputs, inputs)  # for weights in rows: (output, input) is row · d + column
        total = total + 0.5 * away @ fisher @ away / (tasks if weight.dim() > 1 else 1)
    gradients = torch.autograd.grad(total, list(weights.values()))
    detached = {name: weight.detach() for name, weight in weights.items()}
    assert penalty.at(detached) == pytest.approx(total.item())
    for (name, weight), gradient in zip(detached.items(), gradients, strict=True):
        torch.testing.assert_close(penalty.gradient(name, weight), gradient)
    assert penalty.at(anchor) == 0


def test_equal_tasks_add_up_exactly():
    trunk = nn.Linear(6, 4).double()
    factors, anchor, weights = drawn_factors(trunk, 0), moved(trunk, 1), moved(trunk, 2)
    once = KroneckerPenalty().after_task(factors, anchor)
    thrice = once.after_task(factors, anchor).after_task(factors, anchor)
    assert thrice.at(weights) == pytest.approx(3 * once.at(weights))


def test_moving_along_inputs_that_a_task_never_has_is_free_and_the_diagonal_fisher_does_not_see_it():
    trunk, head = nn.Linear(6, 4).double(), nn.Linear(4, ACTIONS).double()
    observations = torch.randn(40, 3, dtype=torch.float64) @ torch.randn(3, 6, dtype=torch.float64)
    unused = torch.linalg.svd(observations).Vh[3]  # orthogonal to every observation; all six inputs are active
    anchor = {n: p.detach().clone() for n, p in trunk.named_parameters()}
    factors = kronecker_fisher(trunk, head, observations, expectation="exact")
    penalty = KroneckerPenalty().after_task(factors, anchor)
    move = torch.outer(torch.randn(4, dtype=torch.float64), unused)
    before = head(trunk(observations))
    with torch.no_grad():
        trunk.weight += move
    torch.testing.assert_close(head(trunk(observations)), before)
    weights = {n: p.detach() for n, p in trunk.named_parameters()}
    assert penalty.at(weights) == pytest.approx(0, abs=1e-12)
    assert (diagonal_fisher(trunk, head, observations, expectation="exact")["weight"] * move.square()).sum() > 1e-3


def test_second_order_divergence_of_a_single_layer_without_spread_in_the_gradients():
    """With the same δ in every state, x and δ are independent and A ⊗ G is the Fisher: P is the KL of a small D."""
    trunk, head = nn.Linear(6, 4).double(), nn.Linear(4, ACTIONS).double()
    with torch.no_grad():
        trunk.weight.zero_()  # the policy is the same in every state
    observations = torch.randn(50, 6, dtype=torch.float64)
    anchor = {n: p.detach().clone() for n, p in trunk.named_parameters()}
    penalty = KroneckerPenalty().after_task(kronecker_fisher(trunk, head, observations, expectation="exact"), anchor)
    move = 1e-4 * torch.randn(4, 6, dtype=torch.float64)
    before = head(trunk(observations)).log_softmax(1)
    with torch.no_grad():
        trunk.weight += move
    after = head(trunk(observations)).log_softmax(1)
    divergence = (before.exp() * (before - after)).sum(1).mean().item()
    assert penalty.at({n: p.detach() for n, p in trunk.named_parameters()}) == pytest.approx(divergence, rel=1e-3)


def test_groups_are_refused():
    trunk = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.Flatten())
    with pytest.raises(TypeError, match=r"layer '0' has 2 groups: Kronecker factors need groups=1"):
        kronecker_fisher(trunk, nn.Linear(6 * 5 * 4, ACTIONS), torch.randn(2, *IMAGE))


def test_saved_tensors_have_the_announced_layouts_and_give_the_penalty_back():
    trunk = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(12, 4))
    factors = kronecker_fisher(trunk, nn.Linear(4, ACTIONS), torch.randn(5, 2, 3, 3), expectation="exact")
    weights = {n: p.detach() for n, p in trunk.named_parameters()}
    penalty = KroneckerPenalty().after_task(factors, weights).after_task(factors, weights)
    tensors = penalty.tensors()
    expected = layouts(dict(trunk.named_parameters()), 32)
    assert tensors.keys() == expected.keys()
    assert all(expected[key].allows(tensor.dtype, tuple(tensor.shape)) for key, tensor in tensors.items())
    again = KroneckerPenalty.from_saved(tensors, 2).fitted(dict(trunk.named_parameters()))
    far = {name: weight + 0.1 for name, weight in weights.items()}
    assert again.at(far) == penalty.at(far) > 0


def test_damping_protects_a_dead_unit_along_the_inputs_of_the_task_alone():
    trunk = nn.Sequential(nn.Linear(6, 4), nn.ReLU()).double()
    with torch.no_grad():
        trunk[0].bias[2] = -100.0  # dead
    observations = torch.randn(40, 3, dtype=torch.float64) @ torch.randn(3, 6, dtype=torch.float64)
    head = nn.Linear(4, ACTIONS).double()
    factors = kronecker_fisher(trunk, head, observations, expectation="exact", rank=FULL)
    anchor = {n: p.detach() for n, p in trunk.named_parameters()}
    used, unused = torch.linalg.svd(observations).Vh[[0, 3]]
    for share, direction, is_free in ((0, used, True), (0.5, used, False), (0.5, unused, True)):
        penalty = KroneckerPenalty().after_task(factors.damped(share), anchor)
        move = torch.zeros(4, 6, dtype=torch.float64)
        move[2] = direction
        cost = penalty.at(anchor | {"0.weight": anchor["0.weight"] + move})
        assert (cost < 1e-9) == is_free
    outputs, inputs = dense(factors.outputs["0.weight"]), dense(factors.inputs["0.weight"])
    damped = KroneckerPenalty().after_task(factors.damped(0.5), anchor)
    expected = 0.5 * (0.5 * outputs.trace() / 4) * (used @ inputs @ used)  # ½ tr(Dᵀ (G + share · tr(G) / 4 · I) D A)
    move = torch.zeros(4, 6, dtype=torch.float64)
    move[2] = used
    assert damped.at(anchor | {"0.weight": anchor["0.weight"] + move}) == pytest.approx(float(expected))
