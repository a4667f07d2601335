"""Names of saved tensors and their validation against a network."""

import pytest
import torch

from blip_rl.core import saved

NETWORK = {"0.weight": torch.nn.Parameter(torch.randn(3, 2)), "0.bias": torch.nn.Parameter(torch.randn(3))}


def of_shapes(**changes):
    shapes = {"0.weight": (3, 2), "0.bias": (3,)} | changes
    return {name: torch.arange(float(torch.Size(shape).numel())).view(shape) for name, shape in shapes.items() if shape}


def test_names_are_taken_apart_as_they_were_put_together():
    one, other = of_shapes(), of_shapes(**{"deep.er.weight": (2,)})
    found = saved.split(saved.named(one, "anchor") | saved.named(other, "fisher"), "fisher", "anchor")
    for tensors, expected in zip(found, (other, one), strict=True):
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors.items())
    assert saved.split({}, "fisher", "anchor") == [{}, {}]


def test_what_is_saved_is_a_copy():
    tensors = of_shapes()
    taken = saved.named(tensors, "anchor")
    tensors["0.bias"].fill_(9.0)
    assert taken["0.bias.anchor"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("key", ["0.weight.fisher", "anchor2", "0.weight"])
def test_a_kind_that_is_not_kept_is_refused(key):
    with pytest.raises(
        ValueError, match=f"state for '{key}', expected only anchor, owner: it belongs to another method"
    ):
        saved.split(saved.named(of_shapes(), "anchor") | {key: torch.ones(1)}, "anchor", "owner")


WRONG_NAMES = [
    ({"1.weight": (3, 2)}, r"state for '1\.weight', which this trunk does not have: it belongs to another network"),
    ({"0.bias": None}, r"the saved state has no '0\.bias\.anchor': it belongs to another network"),
]
WRONG_SHAPES = [
    ({"0.weight": (2, 3)}, r"'0\.weight\.anchor' is \(2, 3\), expected \(3, 2\): another network's state"),
    ({"0.bias": (1,)}, r"'0\.bias\.anchor' is \(1,\), expected \(3,\)"),  # which would broadcast
]


@pytest.mark.parametrize(("changes", "message"), WRONG_NAMES + WRONG_SHAPES)
def test_another_networks_tensors_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        saved.check_fit(of_shapes(**changes), NETWORK, "{}.anchor")
    with pytest.raises(ValueError, match=message):
        saved.fitted(of_shapes(**changes), NETWORK, "anchor")


@pytest.mark.parametrize(("changes", "message"), WRONG_NAMES)
def test_names_alone_can_be_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        saved.check_names(of_shapes(**changes), NETWORK, "{}.anchor")


def test_other_shapes_pass_where_names_alone_are_checked():
    saved.check_names(of_shapes(**{"0.bias": (7,)}), NETWORK, "{}.basis")


def test_the_error_names_the_tensor_as_the_state_does():
    with pytest.raises(ValueError, match=r"the saved state has no '2\.0\.bias'"):
        saved.check_fit(of_shapes(**{"0.bias": None}), NETWORK, "2.{}")


@pytest.mark.parametrize("dtype", [None, torch.uint8])
def test_fitted_tensors_are_copies_in_the_networks_layout(dtype):
    weights = {"w": torch.nn.Parameter(torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last))}
    tensors = {"w": torch.arange(96.0).view(2, 3, 4, 4)}
    found = saved.fitted(tensors, weights, "anchor", dtype)["w"]
    assert found.stride() == weights["w"].stride() != tensors["w"].stride()
    assert found.dtype == (dtype or torch.float32)
    assert not found.requires_grad
    assert torch.equal(found.float(), tensors["w"])
    tensors["w"].zero_()
    assert found.any()
