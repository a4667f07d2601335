"""Saving and restoring an agent's state, bit-exactly."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from blip_rl.learner import state
from tests.learner.small_agents import ROLLOUT, Pixels, agent, cartpole, learn, same, vectorised, weights

KINDS = {
    "vector": cartpole,
    "image": lambda: vectorised(Pixels),
}


def through_a_file(taken):
    contiguous = {name: tensor.contiguous() for name, tensor in taken.tensors.items()}  # as run.snapshots writes them
    return state.Snapshot(load(save(contiguous)), json.loads(json.dumps(taken.values)))


def fresh(kind, seed=0):
    """An agent in the middle of its second task: both tasks have a head, the second is in use."""
    model = agent(env=KINDS[kind](), seed=seed, modulation=True)
    model.switch_task("b", KINDS[kind]())
    return model


def random_draws():
    return torch.rand(3).tolist(), np.random.rand(3).tolist()  # noqa: NPY002


@pytest.mark.parametrize("kind", KINDS)
def test_an_agent_put_back_learns_on_as_the_one_that_was_not(kind):
    """From the same games: the snapshot holds all else."""
    model = fresh(kind)
    learn(model, 3)
    model.restart_games(5)
    taken = through_a_file(state.take(model))
    learn(model, 2)
    drawn = random_draws()

    other = fresh(kind, seed=9)
    state.put(other, taken)
    other.restart_games(5)
    state.put_random(other, taken)
    assert other.num_timesteps == 3 * ROLLOUT
    learn(other, 2)
    assert random_draws() == drawn
    assert same(weights(other.policy), weights(model.policy))
    assert state.take(other).values == state.take(model).values
    assert same(state.take(other).tensors, state.take(model).tensors)


def test_what_is_put_equals_what_was_taken():
    model = fresh("image")
    learn(model, 2)
    taken = state.take(model)
    other = fresh("image", seed=3)
    state.put(other, through_a_file(taken))
    again = state.take(other)
    assert again.values == taken.values
    assert same(again.tensors, taken.tensors)
    layouts = [(p.shape, p.stride()) for p in model.policy.parameters()]
    assert [(p.shape, p.stride()) for p in other.policy.parameters()] == layouts
    mine, theirs = (m.policy.optimizer.state for m in (model, other))
    assert [s["exp_avg"].stride() for s in mine.values()] == [s["exp_avg"].stride() for s in theirs.values()]


def test_what_was_taken_does_not_change_afterwards():
    model = fresh("vector")
    learn(model, 1)
    taken = state.take(model)
    before = {name: tensor.clone() for name, tensor in taken.tensors.items()}
    learn(model, 1)
    assert same(taken.tensors, before)


def test_before_the_first_update_there_is_no_momentum():
    model = fresh("vector")
    taken = state.take(model)
    assert not [name for name in taken.tensors if name.startswith("optimizer.")]
    other = fresh("vector")
    learn(other, 1)
    state.put(other, taken)
    assert not other.policy.optimizer.state


@pytest.mark.parametrize("damage", ["missing", "shape", "policy"])
def test_another_agents_snapshot_is_refused(damage):
    model = fresh("vector")
    learn(model, 1)
    taken = through_a_file(state.take(model))
    if damage == "missing":
        del taken.tensors["optimizer.0.exp_avg"]
    elif damage == "shape":
        taken.tensors["optimizer.0.exp_avg_sq"] = torch.zeros(2, 2)
    else:
        del taken.tensors["policy.trunk.fc1.weight"]
    with pytest.raises((ValueError, RuntimeError), match=r"another agent's snapshot|Missing key"):
        state.put(fresh("vector"), taken)


@pytest.mark.parametrize("rollouts", [1, 2, 3])
def test_games_are_replayed_to_where_they_were(rollouts):
    model = fresh("vector")
    model.restart_games(3)
    actions, step = [], model.env.step_async
    model.env.step_async = lambda a: actions.append(a.copy()) or step(a)
    learn(model, rollouts)
    model.env.step_async = step
    other = fresh("vector", seed=4)
    other.replay_games(3, np.stack(actions).astype(np.uint8))
    assert np.array_equal(other._last_obs, model._last_obs)
    assert np.array_equal(other._last_episode_starts, model._last_episode_starts)


@pytest.mark.parametrize(
    ("every", "expected"),
    [(ROLLOUT, [1, 2, 3, 4, 5]), (2 * ROLLOUT, [2, 4]), (ROLLOUT + 1, [2, 3, 4, 5]), (ROLLOUT // 3, [1, 2, 3, 4, 5])],
)
def test_a_multiple_is_passed_once(every, expected):
    """By the count of the task's own steps, whatever the run's is."""
    model = fresh("vector")
    model.num_timesteps = model.task_began_at = 7 * ROLLOUT
    assert not model.just_passed(every)
    passed = []
    for rollout in range(1, 6):
        model.num_timesteps += ROLLOUT
        if model.just_passed(every):
            passed.append(rollout)
    assert passed == expected


def test_a_snapshot_can_be_put_twice():
    model = fresh("vector")
    learn(model, 1)
    taken = state.take(model)
    before = {name: tensor.clone() for name, tensor in taken.tensors.items()}
    state.put(model, taken)
    learn(model, 1)  # the optimizer counts its steps in place
    assert same(taken.tensors, before)
