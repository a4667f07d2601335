"""Saving and restoring an agent's state, bit-exactly."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from blip_rl.learner import state
from blip_rl.learner.state import Snapshot
from tests.learner.small_agents import ENVIRONMENTS, ROLLOUT, agent, learn, same, through_a_file, weights


def through_files(taken):
    return state.Snapshot(through_a_file(taken.tensors), json.loads(json.dumps(taken.values)))


def fresh(kind, seed=0):
    """An agent in the middle of its second task: both tasks have a head, the second is in use."""
    model = agent(env=ENVIRONMENTS[kind](), seed=seed, modulation=True)
    model.switch_task("b", ENVIRONMENTS[kind]())
    return model


def layouts(model):
    """Memory layouts of all parameters and their moments."""
    optimizer = model.policy.optimizer
    return [(p.stride(), optimizer.state[p]["exp_avg"].stride()) for p in optimizer.param_groups[0]["params"]]


def random_draws():
    return torch.rand(3).tolist(), np.random.rand(3).tolist()  # noqa: NPY002


@pytest.mark.parametrize("kind", ["vectors", "frames"])
def test_a_restored_agent_learns_bit_identically(kind):
    """With the same games: everything else is in the snapshot."""
    model = fresh(kind)
    learn(model, 3)
    model.restart_games(5)
    taken = through_files(state.take(model))
    learn(model, 2)
    drawn = random_draws()

    other = fresh(kind, seed=9)
    state.restore(other, taken)
    other.restart_games(5)
    state.restore_random(other, taken)
    assert other.num_timesteps == 3 * ROLLOUT
    learn(other, 2)
    assert random_draws() == drawn
    assert same(weights(other.policy), weights(model.policy))
    assert state.take(other).values == state.take(model).values
    assert same(state.take(other).tensors, state.take(model).tensors)
    assert layouts(other) == layouts(model)


def test_a_snapshot_never_changes():
    model = fresh("vectors")
    learn(model, 1)
    taken = state.take(model)
    before = {name: tensor.clone() for name, tensor in taken.tensors.items()}
    learn(model, 1)
    assert same(taken.tensors, before)
    state.restore(model, taken)
    learn(model, 1)  # the optimizer counts its steps in place
    assert same(taken.tensors, before)


def test_a_snapshot_before_the_first_update_has_no_moments():
    model = fresh("vectors")
    taken = state.take(model)
    assert not [name for name in taken.tensors if name.startswith("optimizer.")]
    other = fresh("vectors")
    learn(other, 1)
    state.restore(other, taken)
    assert not other.policy.optimizer.state


@pytest.mark.parametrize("damage", ["missing", "shape", "policy"])
def test_snapshots_of_another_agent_are_rejected(damage):
    model = fresh("vectors")
    learn(model, 1)
    taken = through_files(state.take(model))
    if damage == "missing":
        del taken.tensors["optimizer.0.exp_avg"]
    elif damage == "shape":
        taken.tensors["optimizer.0.exp_avg_sq"] = torch.zeros(2, 2)
    else:
        del taken.tensors["policy.trunk.fc1.weight"]
    with pytest.raises((ValueError, RuntimeError), match=r"another agent's snapshot|Missing key"):
        state.restore(fresh("vectors"), taken)


@pytest.mark.parametrize(
    ("every", "expected"),
    [(ROLLOUT, [1, 2, 3, 4, 5]), (2 * ROLLOUT, [2, 4]), (ROLLOUT + 1, [2, 3, 4, 5]), (ROLLOUT // 3, [1, 2, 3, 4, 5])],
)
def test_just_passed_is_true_once_for_each_multiple(every, expected):
    """Counted in steps of the task, not of the run."""
    model = fresh("vectors")
    model.num_timesteps = model.task_began_at = 7 * ROLLOUT
    assert not model.just_passed(every)
    passed = []
    for rollout in range(1, 6):
        model.num_timesteps += ROLLOUT
        if model.just_passed(every):
            passed.append(rollout)
    assert passed == expected


def test_a_snapshot_of_a_cpu_is_restored_on_a_gpu(monkeypatch):
    """It has no state of a GPU's generator."""
    model = fresh("vectors")
    taken, calls = state.take(model), []
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda *given: calls.append(given))
    on_gpu = SimpleNamespace(device=torch.device("cuda"))
    state.restore_random(on_gpu, taken)
    assert not calls
    state.restore_random(on_gpu, Snapshot(taken.tensors | {"random.cuda": torch.get_rng_state()}, taken.values))
    assert len(calls) == 1
