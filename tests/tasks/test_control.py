"""Gymnasium environments as VecEnvs: monitoring, seeds, mixed observations, and rejected spaces."""

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary
from stable_baselines3.common.monitor import Monitor

from blip_rl.errors import UserError
from blip_rl.tasks.control import make_control_env, orthogonal_matrix
from tests.learner.small_agents import Lines

VECTOR = Box(-1.0, 1.0, (3,), np.float32)


@pytest.fixture
def toy():
    """Register an environment with the given spaces; return its id."""

    def register(observation_space=VECTOR, action_space=Discrete(2)):  # noqa: B008
        kwargs = {"observation_space": observation_space, "action_space": action_space}
        gymnasium.register(
            "tests/Toy-v0", entry_point=Lines, kwargs=kwargs, max_episode_steps=3, disable_env_checker=True
        )
        return "tests/Toy-v0"

    yield register
    gymnasium.registry.pop("tests/Toy-v0", None)


def play(env, steps=40):
    observations = [env.reset()]
    dones = []
    for t in range(steps):
        observation, _, done, _ = env.step(np.array([(t + i) % 2 for i in range(env.num_envs)]))
        observations.append(observation)
        dones.append(done)
    return np.stack(observations), np.stack(dones)


def test_copies_are_monitored_and_report_raw_returns(toy):
    env = make_control_env(toy(), 2, seed=0)
    env.reset()
    assert env.env_is_wrapped(Monitor) == [True, True]
    infos = [env.step(np.zeros(2, dtype=int))[3] for _ in range(3)][-1]
    assert [(info["episode"]["r"], info["episode"]["l"]) for info in infos] == [(3.0, 3), (3.0, 3)]
    assert all("terminal_observation" in info and info["TimeLimit.truncated"] for info in infos)


def test_a_seed_determines_all_episodes_and_copies_differ():
    first, ends = play(make_control_env("CartPole-v1", 2, seed=4))
    again, _ = play(make_control_env("CartPole-v1", 2, seed=4))
    other, _ = play(make_control_env("CartPole-v1", 2, seed=5))
    assert ends.any()
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(first[0, 1], other[0, 0])
    assert not np.array_equal(first[0, 0], first[0, 1])


@pytest.mark.parametrize("size", [1, 4, 17])
def test_the_mixing_matrix_is_orthogonal_and_determined_by_its_seed(size):
    matrix = orthogonal_matrix(size, seed=3)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=1e-12)
    np.testing.assert_array_equal(matrix, orthogonal_matrix(size, seed=3))
    if size > 1:
        assert not np.allclose(matrix, orthogonal_matrix(size, seed=4))


def test_the_mixing_matrix_is_uniform():
    """Of a uniform (Haar) orthogonal matrix, every entry has mean 0 and the trace variance 1; bare QR fails both."""
    matrices = np.stack([orthogonal_matrix(3, seed) for seed in range(1500)])
    assert np.abs(matrices.mean(axis=0)).max() < 4 / np.sqrt(3 * 1500)
    assert np.trace(matrices, axis1=1, axis2=2).var() == pytest.approx(1.0, abs=0.15)


def test_mixed_observations_are_the_matrix_times_the_originals():
    plain, ends = play(make_control_env("CartPole-v1", 2, seed=1))
    env = make_control_env("CartPole-v1", 2, seed=1, observation_mix_seed=9)
    mixed, mixed_ends = play(env)
    assert env.observation_space == Box(-np.inf, np.inf, (4,), np.float32)
    assert mixed.dtype == np.float32
    np.testing.assert_array_equal(ends, mixed_ends)
    np.testing.assert_allclose(mixed, plain @ orthogonal_matrix(4, 9).T, atol=1e-6)
    assert not np.allclose(mixed, plain, atol=0.01)


@pytest.mark.parametrize("actions", [Discrete(2), Box(-1.0, 1.0, (2,), np.float32)])
@pytest.mark.parametrize(
    ("observations", "seen"),
    [
        (VECTOR, VECTOR),
        (Box(0, 255, (3, 40, 30), np.uint8), Box(0, 255, (3, 40, 30), np.uint8)),
        (Box(0, 255, (40, 30, 3), np.uint8), Box(0, 255, (3, 40, 30), np.uint8)),  # channels come first
    ],
)
def test_vectors_images_and_both_kinds_of_actions_are_accepted(toy, observations, seen, actions):
    env = make_control_env(toy(observations, actions), 2, seed=0)
    assert (env.observation_space, env.action_space) == (seen, actions)
    assert env.reset().shape == (2, *seen.shape)


UNUSABLE = [Discrete(5), Dict(x=VECTOR), Box(0.0, 1.0, (4, 4)), Box(0.0, 1.0, (4, 4, 3)), MultiBinary(3)]


@pytest.mark.parametrize(
    ("given", "mix", "message"),
    [
        *(
            ({"observation_space": s}, None, "observations .*: expected vectors .* choose another game")
            for s in UNUSABLE
        ),
        ({"action_space": MultiBinary(3)}, None, "actions .*: expected Discrete counted from 0, or Box"),
        ({"action_space": Discrete(3, start=1)}, None, "actions .*: expected Discrete counted from 0, or Box"),
        (
            {"observation_space": Box(0, 255, (40, 30, 3), np.uint8)},
            1,
            "observations .*: only vectors .* can be mixed .remove",
        ),
    ],
    ids=str,
)
def test_other_spaces_are_rejected(toy, given, mix, message):
    with pytest.raises(UserError, match=f"'tests/Toy-v0' has {message}"):
        make_control_env(toy(**given), 1, seed=0, observation_mix_seed=mix)


def test_unknown_ids_and_bad_seeds_are_rejected():
    with pytest.raises(UserError, match=r"did you mean CartPole-v1?"):
        make_control_env("CartPool-v1", 1, seed=0)
    with pytest.raises(UserError, match="seed -1"):
        make_control_env("CartPole-v1", 1, seed=-1)


def test_a_missing_dependency_is_reported_with_the_game():
    def needs_something():
        raise gymnasium.error.DependencyNotInstalled("run pip install something")

    gymnasium.register("tests/Needy-v0", entry_point=needs_something)
    with pytest.raises(UserError, match=r"'tests/Needy-v0' cannot be made: .*pip install something"):
        make_control_env("tests/Needy-v0", 1, seed=0)
    gymnasium.registry.pop("tests/Needy-v0")
