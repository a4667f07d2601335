"""Freeze: the first task learns as in fine-tuning, later ones cannot move the trunk by a bit."""

import pytest
import torch

from blip_rl.methods.attach import attached
from blip_rl.methods.base import MethodState
from blip_rl.methods.freeze import Freeze
from tests.methods.small_tasks import TRUNKS, copies, learn, mlp, three_tasks

trunks = pytest.mark.parametrize("name", TRUNKS)


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


@trunks
def test_the_trunk_is_the_same_to_the_bit_after_later_tasks(name):
    freeze, trunk = Freeze(), TRUNKS[name][0]()
    first, *later = three_tasks(name)
    start = copies(trunk)
    learn(freeze, trunk, first)
    learned, greedy = copies(trunk), first.greedy_actions(trunk)
    assert not same(start, learned)
    for task in later:
        head = task.head.weight.detach().clone()
        learn(freeze, trunk, task, learning_rate=0.1)
        assert same(copies(trunk), learned)
        assert not torch.equal(task.head.weight, head)  # the task's own part does learn
    assert torch.equal(first.greedy_actions(trunk), greedy)


def decaying_adam(parameters):
    return torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.5)


def old_momentum(parameters):
    """An optimizer with momentum: it would still move parameters with a gradient of zero."""
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("make", [decaying_adam, old_momentum])
def test_weight_decay_and_momentum_do_not_move_the_trunk(make):
    freeze, trunk = Freeze(), mlp()
    first, second, _ = three_tasks("mlp")
    learn(freeze, trunk, first, steps=2)
    optimizer = make(list(trunk.parameters()))
    before = copies(trunk)
    with attached(freeze, trunk, optimizer):
        for _ in range(3):
            second.loss(trunk).backward()
            optimizer.step()
    assert same(copies(trunk), before)


def test_state_is_the_number_of_tasks_without_tensors():
    freeze = Freeze()
    assert freeze.state() == MethodState({}, {"tasks_seen": 0})
    assert freeze.samples_wanted == 0
    assert learn(freeze, mlp(), three_tasks("mlp")[0]) == {}
    assert freeze.state() == MethodState({}, {"tasks_seen": 1})


def test_another_methods_state_and_settings_are_refused():
    with pytest.raises(ValueError, match=r"keeps no tensors, but the state holds '0\.weight\.anchor'"):
        Freeze().load_state(MethodState({"0.weight.anchor": torch.zeros(2)}, {"tasks_seen": 1}))
    with pytest.raises(ValueError, match="strength"):
        Freeze(strength=1)
