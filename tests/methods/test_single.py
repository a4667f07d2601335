"""Single: every task starts from the same weights and keeps its own copy."""

import contextlib
import copy
import json

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from blip_rl.methods.base import MethodState
from blip_rl.methods.single import Single
from tests.methods.small_tasks import TRUNKS, copies, learn, mlp, three_tasks

trunks = pytest.mark.parametrize("name", TRUNKS)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


def played(single, trunk, task, number):
    with single.playing(trunk, number):
        return copies(trunk), task.greedy_actions(trunk)


@trunks
def test_every_task_starts_from_the_first_ones_start(name):
    single, trunk = Single(), TRUNKS[name][0]()
    start = copies(trunk)
    for task in three_tasks(name):
        starts = []
        learn(single, trunk, task, after_step=lambda starts=starts: starts.append(copies(trunk)))
        assert same(starts[0], start)
        assert not same(starts[-1], start)


@trunks
def test_a_task_learns_as_if_it_were_the_only_one(name):
    single, trunk = Single(), TRUNKS[name][0]()
    alone, (first, second, _) = copy.deepcopy(trunk), three_tasks(name)
    second_alone = copy.deepcopy(second)
    learn(single, trunk, first)
    learn(single, trunk, second)
    learn(Single(), alone, second_alone)
    assert same(copies(trunk), copies(alone))


@trunks
def test_every_task_plays_for_ever_as_it_did_when_it_was_finished(name):
    single, trunk, tasks = Single(), TRUNKS[name][0](), three_tasks(name)
    ends = []
    for number, task in enumerate(tasks, start=1):
        learn(single, trunk, task)
        ends.append((copies(trunk), task.greedy_actions(trunk)))
        for earlier in range(number):
            weights, actions = played(single, trunk, tasks[earlier], earlier + 1)
            assert same(weights, ends[earlier][0])
            assert torch.equal(actions, ends[earlier][1])
    assert same(copies(trunk), ends[-1][0])
    assert not same(ends[0][0], ends[1][0])


@trunks
def test_a_task_that_is_not_finished_plays_with_the_trunk_as_it_is(name):
    single, trunk = Single(), TRUNKS[name][0]()
    first, second, _ = three_tasks(name)
    learn(single, trunk, first)
    end = copies(trunk)

    def look():
        now = copies(trunk)
        assert same(played(single, trunk, second, 2)[0], now)
        assert same(played(single, trunk, second, 3)[0], now)
        assert same(played(single, trunk, first, 1)[0], end)
        assert same(copies(trunk), now)

    learn(single, trunk, second, steps=3, after_step=look)


def test_playing_puts_the_trunk_back_also_after_an_error():
    single, trunk = Single(), TRUNKS["conv"][0]()
    for task in three_tasks("conv")[:2]:
        learn(single, trunk, task)
    before, strides = copies(trunk), [p.stride() for p in trunk.parameters()]
    with contextlib.suppress(KeyError), single.playing(trunk, 1):
        assert not same(copies(trunk), before)
        raise KeyError("while playing")
    assert same(copies(trunk), before)
    assert [p.stride() for p in trunk.parameters()] == strides


@trunks
def test_a_run_that_is_saved_and_loaded_goes_on_bit_for_bit(name):
    single, trunk = Single(), TRUNKS[name][0]()
    *earlier, last = three_tasks(name)
    for task in earlier:
        learn(single, trunk, task)
    state, loaded = single.state(), Single()
    tensors = load(save({key: tensor.contiguous() for key, tensor in state.tensors.items()}))
    loaded.load_state(MethodState(tensors, json.loads(json.dumps(state.values))))
    other, other_last = TRUNKS[name][0](), copy.deepcopy(last)  # other weights: the state alone must bring them
    assert same(played(loaded, other, earlier[0], 1)[0], played(single, trunk, earlier[0], 1)[0])
    learn(single, trunk, last)
    learn(loaded, other, other_last)
    assert same(copies(other), copies(trunk))
    assert same(loaded.state().tensors, single.state().tensors)
    assert loaded.state().values == single.state().values


def test_the_state_is_a_trunk_for_each_task_and_one_for_the_start():
    single, trunk = Single(), mlp()
    for tasks, task in enumerate(three_tasks("mlp"), start=1):
        learn(single, trunk, task, steps=1)
        numbers = sum(tensor.numel() for tensor in single.state().tensors.values())
        assert numbers == (tasks + 1) * sum(p.numel() for p in trunk.parameters())


@pytest.mark.parametrize(
    ("trunk", "message"),
    [
        (nn.Sequential(nn.Linear(5, 12)), r"state for '2\.weight', which this trunk does not have"),
        (nn.Sequential(*mlp(), nn.Linear(8, 8)), r"the saved state has no '{}\.4\.weight'"),
        (nn.Sequential(nn.Linear(5, 13), nn.Tanh(), nn.Linear(13, 8)), r"'{}\.0\.weight' is \(12, 5\), expected"),
    ],
)
def test_a_state_of_another_network_is_refused_and_changes_nothing(trunk, message):
    single, loaded = Single(), Single()
    learn(single, mlp(), three_tasks("mlp")[0], steps=2)
    loaded.load_state(single.state())
    before = copies(trunk)
    with pytest.raises(ValueError, match=message.format(0)):
        loaded.start_task(trunk)
    with pytest.raises(ValueError, match=message.format(1)), loaded.playing(trunk, 1):
        pass
    assert same(copies(trunk), before)


def test_misuse_is_refused():
    with pytest.raises(RuntimeError, match="end_task before start_task"):
        Single().end_task(three_tasks("mlp")[0].finished(mlp()))
    with pytest.raises(ValueError, match="tasks"):
        Single(tasks=6)
