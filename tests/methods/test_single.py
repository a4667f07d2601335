"""Single: every task starts from the same weights and keeps its own copy."""

import copy

import pytest
import torch

from blip_rl.methods.single import Single
from tests.methods.small_tasks import TRUNKS, copies, learn, three_tasks

trunks = pytest.mark.parametrize("name", TRUNKS)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


def played(single, trunk, task, number):
    with single.playing(trunk, number):
        return copies(trunk), task.greedy_actions(trunk)


@trunks
def test_task_learns_as_in_a_run_of_its_own(name):
    single, trunk = Single(), TRUNKS[name][0]()
    alone, (first, second, _) = copy.deepcopy(trunk), three_tasks(name)
    second_alone = copy.deepcopy(second)
    learn(single, trunk, first)
    learn(single, trunk, second)
    learn(Single(), alone, second_alone)
    assert same(copies(trunk), copies(alone))


@trunks
def test_finished_tasks_keep_their_outputs_bit_for_bit(name):
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
def test_unfinished_task_plays_with_the_current_trunk(name):
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
