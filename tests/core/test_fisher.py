"""The closed forms against one backward pass for each sample, over a list of small networks."""

import pytest
import torch
from torch import nn

from blip_rl.core.fisher import diagonal_fisher
from tests.core.oracles import fisher_of_actions

# torch pads a copy for even kernels with padding='same', and says so.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")

ACTIONS = 5


class Skip(nn.Module):
    """A layer whose output takes two ways to the policy."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        y = torch.tanh(self.first(x))
        return y + self.second(y)


class LateInput(nn.Module):
    """The second layer sees raw observations: nothing before it needs a gradient."""

    def __init__(self):
        super().__init__()
        self.early, self.late = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x):
        return torch.sigmoid(self.early(x)) * self.late(x)


class Unused(nn.Module):
    """A layer that runs without effect, and one that never runs."""

    def __init__(self):
        super().__init__()
        self.used, self.ignored, self.idle = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(3, 3)

    def forward(self, x):
        self.ignored(x)
        return self.used(x)


def conv(*args, **kwargs):
    return lambda: nn.Sequential(nn.Conv2d(*args, **kwargs), nn.Flatten())


VECTOR, ROWS, IMAGE = (6,), (3, 6), (4, 9, 8)
PROBLEMS = {
    "linear": (lambda: nn.Linear(6, 4), VECTOR),
    "linear without bias": (lambda: nn.Linear(6, 4, bias=False), VECTOR),
    "tanh": (lambda: nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 4), nn.Tanh()), VECTOR),
    "relu": (lambda: nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 4), nn.ReLU()), VECTOR),
    "relu in place": (lambda: nn.Sequential(nn.Linear(6, 7), nn.ReLU(True), nn.Linear(7, 4), nn.ReLU(True)), VECTOR),
    "elu, silu": (lambda: nn.Sequential(nn.Linear(6, 7), nn.ELU(1.0, True), nn.Linear(7, 4), nn.SiLU()), VECTOR),
    "nested": (lambda: nn.Sequential(nn.Sequential(nn.Linear(6, 7), nn.Tanh()), nn.Linear(7, 4)), VECTOR),
    "skip": (Skip, VECTOR),
    "late input": (LateInput, VECTOR),
    "unused layers": (Unused, VECTOR),
    "linear over rows": (lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Flatten()), ROWS),
    "linear over rows, no bias": (lambda: nn.Sequential(nn.Linear(6, 5, bias=False), nn.Tanh(), nn.Flatten()), ROWS),
    "linear over rows of rows": (lambda: nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Flatten()), IMAGE),
    "conv": (conv(4, 3, 3), IMAGE),
    "conv without bias": (conv(4, 3, 3, bias=False), IMAGE),
    "conv stride": (conv(4, 3, 3, stride=2), IMAGE),
    "conv uneven stride and kernel": (conv(4, 3, (3, 2), stride=(2, 3)), IMAGE),
    "conv padding": (conv(4, 3, 3, padding=1), IMAGE),
    "conv uneven padding": (conv(4, 3, 3, padding=(0, 2), stride=2), IMAGE),
    "conv same": (conv(4, 3, 3, padding="same"), IMAGE),
    "conv same, even kernel": (conv(4, 3, (2, 4), padding="same"), IMAGE),
    "conv same, dilated": (conv(4, 3, (3, 2), padding="same", dilation=(2, 3)), IMAGE),
    "conv valid": (conv(4, 3, 3, padding="valid"), IMAGE),
    "conv dilation": (conv(4, 3, 3, dilation=2), IMAGE),
    "conv groups": (conv(4, 6, 3, groups=2), IMAGE),
    "conv depthwise": (conv(4, 8, 3, groups=4, padding=1, stride=2), IMAGE),
    "conv all at once": (conv(4, 6, (3, 2), stride=(1, 2), padding=(2, 1), dilation=(1, 2), groups=2), IMAGE),
    "conv to linear": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 5, 3, stride=2), nn.ReLU(True), nn.Conv2d(5, 6, 2), nn.ReLU(True), nn.Flatten(),
            nn.Linear(6 * 3 * 2, 7), nn.ReLU(True),
        ),
        IMAGE,
    ),
}  # fmt: skip


@pytest.fixture(params=PROBLEMS.values(), ids=PROBLEMS.keys())
def problem(request):
    """(trunk, head, observations, actions) in float64."""
    build, shape = request.param
    trunk = build().double()
    observations = torch.randn(11, *shape, dtype=torch.float64)
    with torch.no_grad():
        features = trunk(observations).shape[1]
    head = nn.Linear(features, ACTIONS).double()
    return trunk, head, observations, torch.randint(ACTIONS, (11,))


def assert_close(actual, expected, rtol=1e-10):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            actual[name], value.detach(), rtol=rtol, atol=1e-18, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_closed_form_equals_one_backward_pass_for_each_sample(problem):
    trunk, head, observations, actions = problem
    fisher = diagonal_fisher(trunk, head, observations, actions, chunk_samples=4)
    assert_close(fisher, fisher_of_actions(trunk, head, observations, actions))
    assert any(value.any() for value in fisher.values())


def test_layer_that_the_policy_ignores_has_fisher_zero():
    trunk, head = Unused(), nn.Linear(4, ACTIONS)
    fisher = diagonal_fisher(trunk, head, torch.randn(5, 6), torch.zeros(5, dtype=torch.long))
    for name, value in fisher.items():
        assert bool(value.any()) == name.startswith("used.")


def test_single_precision_and_channels_last_agree_with_double(problem):
    trunk, head, observations, actions = problem
    expected = diagonal_fisher(trunk, head, observations, actions)
    trunk, head, observations = trunk.float(), head.float(), observations.float()
    if observations.dim() == 4:
        trunk = trunk.to(memory_format=torch.channels_last)
    actual = diagonal_fisher(trunk, head, observations, actions)
    for name, value in expected.items():
        largest = value.abs().max().item()
        torch.testing.assert_close(actual[name].double(), value, rtol=1e-4, atol=1e-6 * largest)


@pytest.mark.parametrize("expectation", ["sampled", "exact"])
def test_the_chunk_size_and_repeating_every_sample_change_nothing(expectation):
    build, shape = PROBLEMS["conv to linear"]
    trunk, head = build().double(), nn.Linear(7, ACTIONS).double()
    observations, actions = torch.randn(10, *shape, dtype=torch.float64), torch.randint(ACTIONS, (10,))

    def fisher(chunk_samples, repeats=1):
        taken = None if expectation == "exact" else actions.repeat(repeats)
        repeated = observations.repeat(repeats, 1, 1, 1)
        return diagonal_fisher(trunk, head, repeated, taken, expectation=expectation, chunk_samples=chunk_samples)

    once = fisher(chunk_samples=10)
    for chunk_samples in (1, 3, 9, 64):
        assert_close(fisher(chunk_samples), once, rtol=1e-12)
    assert_close(fisher(4, repeats=2), once, rtol=1e-12)
    assert_close(fisher(7, repeats=5), once, rtol=1e-12)


def test_observations_are_preprocessed_chunk_by_chunk():
    trunk, head = nn.Linear(6, 4), nn.Linear(4, ACTIONS)
    raw = torch.randint(0, 256, (9, 6), dtype=torch.uint8)
    actions = torch.randint(ACTIONS, (9,))
    sizes = []

    def preprocess(chunk):
        sizes.append(len(chunk))
        return chunk.float() / 255

    actual = diagonal_fisher(trunk, head, raw, actions, preprocess=preprocess, chunk_samples=4)
    assert_close(actual, diagonal_fisher(trunk, head, raw.float() / 255, actions), rtol=1e-5)
    assert sizes == [4, 4, 1]


@pytest.mark.parametrize("task", ["task0", "task1", "task2"])
def test_fisher_equals_that_of_the_reference(golden, task):
    """The golden arrays come from a loop in the authors' setting, in single precision."""
    trunk = nn.Sequential(nn.Conv2d(2, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8), nn.ReLU()).double()
    layers = {"conv": "0", "linear": "3"}
    weights = {
        f"{index}.{kind}": golden[f"{task}.{layer}.{kind}_clipped"].double()
        for layer, index in layers.items()
        for kind in ("weight", "bias")
    }
    trunk.load_state_dict(weights)
    head_weight, head_bias = golden[f"{task}.head.weight"].double(), golden[f"{task}.head.bias"].double()

    def head(features):
        return features @ head_weight.T + head_bias

    fisher = diagonal_fisher(trunk, head, golden[f"{task}.obs"].double(), golden[f"{task}.actions"])
    for layer, index in layers.items():
        for kind in ("weight", "bias"):
            expected = golden[f"{task}.{layer}.fisher_{kind}"]
            torch.testing.assert_close(
                fisher[f"{index}.{kind}"], expected, rtol=1e-6, atol=1e-8 * expected.max().item()
            )
