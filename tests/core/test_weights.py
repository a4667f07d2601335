import pytest
import torch
from torch import nn

from blip_rl.core.weights import copy_weights, exchanged_weights, set_weights


def module():
    layers = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Linear(4, 2))
    return layers.to(memory_format=torch.channels_last)


def test_copies_are_apart_from_the_module():
    layers = module()
    before = copy_weights(layers)
    assert not any(tensor.requires_grad for tensor in before.values())
    assert before["0.weight"].is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        layers[1].weight.add_(1)
    assert torch.equal(layers[1].weight - 1, before["1.weight"])


def test_weights_are_set_in_place():
    layers, other = module(), module()
    tensors = list(layers.parameters())
    set_weights(layers, copy_weights(other))
    assert all(a is b for a, b in zip(layers.parameters(), tensors, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(layers.parameters(), other.parameters(), strict=True))
    assert layers[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_exchanged_weights_come_back_to_the_bit_also_after_an_error():
    layers, other = module(), module()
    before, tensors = copy_weights(layers), list(layers.parameters())
    with pytest.raises(KeyError), exchanged_weights(layers, copy_weights(other)):  # noqa: PT012
        assert all(torch.equal(a, b) for a, b in zip(layers.parameters(), other.parameters(), strict=True))
        raise KeyError
    assert all(torch.equal(parameter, before[name]) for name, parameter in layers.named_parameters())
    assert all(a is b for a, b in zip(layers.parameters(), tensors, strict=True))
