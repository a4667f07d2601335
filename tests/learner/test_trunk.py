"""The trunk: shapes, initialisation, modulation, and rejected observations."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from pydantic import ValidationError
from torch import nn

from blip_rl.core.fisher import diagonal_fisher
from blip_rl.errors import UserError
from blip_rl.learner.trunk import Modulation, Trunk, check_observations, check_trunk
from tests.core.oracles import fisher_enumerated
from tests.learner.small_agents import PAPER_IMAGE, SMALL_IMAGE, VECTOR, trunk_config

FRAMES = spaces.Box(0, 255, (4, 84, 84), np.uint8)
NUMBERS = spaces.Box(-np.inf, np.inf, (4,), np.float32)


def paper_trunk():
    return Trunk(FRAMES, trunk_config(image=PAPER_IMAGE))


def vector_trunk(normalization="none", **vector):
    vector = {"hidden": [16, 12], "activation": "tanh"} | vector
    return Trunk(NUMBERS, trunk_config(vector=vector, normalization=normalization))


def test_shapes_of_the_papers_trunk():
    trunk = paper_trunk()
    shapes = {name: tuple(parameter.shape) for name, parameter in trunk.named_parameters()}
    assert shapes == {
        "conv1.weight": (32, 4, 8, 8), "conv1.bias": (32,),
        "conv2.weight": (64, 32, 4, 4), "conv2.bias": (64,),
        "conv3.weight": (128, 64, 3, 3), "conv3.bias": (128,),
        "fc1.weight": (1024, 128 * 7 * 7), "fc1.bias": (1024,),
    }  # fmt: skip
    assert sum(parameter.numel() for parameter in trunk.parameters()) == 6_538_464
    assert trunk(torch.rand(2, 4, 84, 84)).shape == (2, 1024)
    assert (trunk.features_dim, trunk.layer_outputs) == (1024, [32, 64, 128, 1024])
    assert trunk.conv1.weight.is_contiguous(memory_format=torch.channels_last)


def test_shapes_of_a_vector_trunk():
    trunk = vector_trunk()
    assert trunk.layer_names == ["fc1", "fc2"]
    assert (trunk.features_dim, trunk.layer_outputs) == (12, [16, 12])
    assert sum(parameter.numel() for parameter in trunk.parameters()) == 4 * 16 + 16 + 16 * 12 + 12
    assert trunk(torch.rand(7, 4)).shape == (7, 12)


@pytest.mark.parametrize(
    ("name", "function"), [("relu", torch.relu), ("tanh", torch.tanh), ("elu", nn.ELU()), ("silu", nn.SiLU())]
)
def test_every_layer_is_followed_by_the_activation(name, function):
    trunk, x = vector_trunk(activation=name), torch.randn(5, 4)
    torch.testing.assert_close(trunk(x), function(trunk.fc2(function(trunk.fc1(x)))))


def test_an_image_trunk_equals_a_plain_sequential_network():
    """Channels last is a memory layout only: the order of features is that of contiguous tensors."""
    trunk = Trunk(spaces.Box(0, 255, (3, 36, 40), np.uint8), trunk_config())
    plain = nn.Sequential(
        nn.Conv2d(3, 4, 8, 4), nn.ReLU(), nn.Conv2d(4, 4, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 3 * 3, 8)
    )
    named = dict(trunk.named_parameters())
    layers = {"0": "conv1", "2": "conv2", "5": "fc1"}
    plain.load_state_dict({name: named[name.replace(name[0], layers[name[0]], 1)] for name in plain.state_dict()})
    frames = torch.rand(5, 3, 36, 40)
    torch.testing.assert_close(trunk(frames), torch.relu(plain(frames)))
    torch.testing.assert_close(trunk(frames.contiguous(memory_format=torch.channels_last)), torch.relu(plain(frames)))


@pytest.mark.parametrize("trunk", [vector_trunk(), Trunk(spaces.Box(0, 255, (3, 36, 36), np.uint8), trunk_config())])
def test_weights_are_initialised_orthogonally_with_gain_root_two_and_biases_with_zero(trunk):
    for name, parameter in trunk.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
            continue
        matrix = parameter.detach().flatten(1)
        gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
        torch.testing.assert_close(gram, 2 * torch.eye(len(gram)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["image", "vector"])
def test_trunks_without_a_fully_connected_layer_are_rejected(kind):
    """Heads take a vector of features; convolutions alone would give them an image."""
    sections = {"image": SMALL_IMAGE, "vector": VECTOR}
    with pytest.raises(ValidationError, match="hidden"):
        trunk_config(**{kind: sections[kind] | {"hidden": []}})


# --- modulation


@pytest.mark.parametrize("shape", [(3, 2), (3, 2, 4, 5)])
def test_a_modulation_scales_and_shifts_each_unit(shape):
    modulation, y = Modulation(2), torch.randn(shape)
    assert torch.equal(modulation(y), y), "the identity at first"
    with torch.no_grad():
        modulation.scale.copy_(torch.tensor([2.0, -1.0]))
        modulation.shift.copy_(torch.tensor([0.5, 3.0]))
    modulated = modulation(y)
    torch.testing.assert_close(modulated[:, 0], 2 * y[:, 0] + 0.5)
    torch.testing.assert_close(modulated[:, 1], 3 - y[:, 1])


def test_modulations_act_before_the_activation_and_are_no_parameters_of_the_trunk():
    trunk, x = vector_trunk(), torch.randn(5, 4)
    names = list(trunk.state_dict())
    plain = trunk(x)
    modulations = [Modulation(units) for units in trunk.layer_outputs]
    trunk.modulate(modulations)
    assert torch.equal(trunk(x), plain)
    with torch.no_grad():
        for index, modulation in enumerate(modulations):
            modulation.scale.fill_(2.0 + index)
            modulation.shift.fill_(0.1)
    expected = torch.tanh(3 * trunk.fc2(torch.tanh(2 * trunk.fc1(x) + 0.1)) + 0.1)
    torch.testing.assert_close(trunk(x), expected)
    assert list(trunk.state_dict()) == names
    trunk.modulate([])
    assert torch.equal(trunk(x), plain)


# --- layer normalisation


def normalized_by_hand(y):
    """Each sample alone, in float64."""
    rows = [(row - row.mean()) / (row.var(unbiased=False) + 1e-5).sqrt() for row in y.double()]
    return torch.stack(rows).float()


def test_layer_normalisation_acts_before_the_tasks_modulation_and_has_no_parameters():
    trunk, x = vector_trunk(normalization="layer"), torch.randn(5, 4)
    plain = vector_trunk()
    assert {n: p.shape for n, p in trunk.named_parameters()} == {n: p.shape for n, p in plain.named_parameters()}
    y = torch.tanh(normalized_by_hand(trunk.fc2(torch.tanh(normalized_by_hand(trunk.fc1(x))))))
    torch.testing.assert_close(trunk(x), y)
    modulations = [Modulation(units) for units in trunk.layer_outputs]
    with torch.no_grad():
        for modulation in modulations:
            modulation.scale.fill_(2.0)
            modulation.shift.fill_(0.1)
    trunk.modulate(modulations)
    inner = torch.tanh(2 * normalized_by_hand(trunk.fc1(x)) + 0.1)
    torch.testing.assert_close(trunk(x), torch.tanh(2 * normalized_by_hand(trunk.fc2(inner)) + 0.1))


@pytest.mark.parametrize("modulated", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_convolutions_are_normalised_over_channels_and_positions(layout, modulated):
    trunk = Trunk(spaces.Box(0, 255, (3, 36, 40), np.uint8), trunk_config(normalization="layer"))
    if modulated:
        trunk.modulate([Modulation(units) for units in trunk.layer_outputs])  # the identity
    frames = torch.rand(5, 3, 36, 40)
    first = torch.relu(normalized_by_hand(trunk.conv1(frames)))
    second = torch.relu(normalized_by_hand(trunk.conv2(first)))
    expected = torch.relu(normalized_by_hand(trunk.fc1(second.flatten(1))))
    torch.testing.assert_close(trunk(frames.contiguous(memory_format=layout)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("space", [NUMBERS, spaces.Box(0, 255, (3, 36, 40), np.uint8)])
def test_the_fisher_of_a_normalised_trunk_equals_one_backward_pass_for_each_sample(space):
    trunk = Trunk(space, trunk_config(normalization="layer")).double()
    head, observations = nn.Linear(trunk.features_dim, 3).double(), torch.rand(4, *space.shape, dtype=torch.float64)
    trunk.modulate([Modulation(units).double() for units in trunk.layer_outputs])
    found = diagonal_fisher(trunk, head, observations, expectation="exact")
    for name, expected in fisher_enumerated(trunk, head, observations).items():
        torch.testing.assert_close(found[name], expected.detach(), rtol=1e-7, atol=1e-18)


def test_a_layer_of_one_unit_cannot_be_normalised():
    with pytest.raises(ValidationError, match=r"normalization = 'layer' with a layer of 1 unit in hidden"):
        trunk_config(normalization="layer", vector={"hidden": [16, 1], "activation": "tanh"})


# --- observations that do not fit


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Discrete(3), "observations of Discrete: expected a vector or an image"),
        (spaces.Box(-1, 1, (3, 4), np.float32), r"float32 \(3, 4\): expected a vector or an image"),
        (spaces.Box(0, 1, (4, 84, 84), np.float32), "expected images of uint8 from 0 to 255"),
        (spaces.Box(0, 255, (4, 84, 84), np.float32), "expected images of uint8 from 0 to 255"),
        (spaces.Box(0, 255, (1, 7, 84), np.uint8), r"layer 1 has a 8×8 kernel, but only 7×84 pixels reach it"),
        (spaces.Box(0, 255, (1, 12, 12), np.uint8), r"layer 2 has a 4×4 kernel, but only 2×2 pixels reach it"),
    ],
)
def test_observations_that_no_trunk_takes_are_rejected(space, message):
    with pytest.raises(UserError, match=message):
        Trunk(space, trunk_config())
    with pytest.raises(UserError, match=message):
        check_trunk(space, trunk_config())


@pytest.mark.parametrize(
    ("space", "described"),
    [
        (spaces.Box(-1, 1, (5,), np.float32), r"float32 \(5,\)"),
        (spaces.Box(-1, 1, (4,), np.float64), r"float64 \(4,\)"),
        (spaces.Discrete(4), "Discrete"),
    ],
)
def test_tasks_with_other_observations_than_the_first_are_rejected(space, described):
    with pytest.raises(UserError, match=rf"task 'b' observes {described}, but .* takes float32 \(4,\) .* task 'a'"):
        check_observations("b", space, "a", NUMBERS)


@pytest.mark.parametrize(
    ("first", "other", "described"),
    [
        (spaces.Box(0, 255, (3, 36, 36), np.uint8), spaces.Box(0, 1, (3, 36, 36), np.uint8), "from 0 to 1, .* to 255"),
        (spaces.Box(0, 255, (128,), np.uint8), spaces.Box(0, 1, (128,), np.uint8), "from 0 to 1, .* to 255"),
        (spaces.Box(0, 1, (8,), np.int64), spaces.Box(0, 9, (8,), np.int64), "from 0 to 9, .* to 1"),
        (spaces.Box(0, 1, (8,), np.int64), spaces.Box(0, 1, (8,), np.float32), "float32 .* int64"),
    ],
)
def test_observations_of_the_same_shape_but_another_kind_are_rejected(first, other, described):
    check_observations("a", first, "a", first)
    with pytest.raises(UserError, match=rf"task 'b' observes .*{described} .*change the observations with wrappers"):
        check_observations("b", other, "a", first)


def test_bounds_of_continuous_observations_and_counts_may_differ():
    check_observations("b", spaces.Box(-np.inf, 1, (4,), np.float32), "a", NUMBERS)
    check_observations("b", spaces.Box(0, 9, (4,), np.int64), "a", spaces.Box(0, 20, (4,), np.int64))
