"""MinAtar's games here are those of the package: same planes, rewards and ends for a seed."""

import importlib.util
import sys

import numpy as np
import pytest
from gymnasium.wrappers import TransformObservation
from stable_baselines3.common.monitor import Monitor

from blip_rl.config import AtariConfig
from blip_rl.errors import UserError
from blip_rl.task_schedule import MinatarConfig, TaskConfig
from blip_rl.tasks import minatar
from blip_rl.tasks.games import check_game
from blip_rl.tasks.make import make_evaluation_env, make_training_env
from blip_rl.tasks.minatar import CHANNELS
from blip_rl.tasks.minatar_names import MODULES, minatar_game, minatar_ids

STEPS = 600


@pytest.fixture(scope="module")
def package():
    """The package's own environment, without its viewer: seaborn takes a second to import, and may warn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "seaborn", None)
        from minatar import Environment

        yield Environment


def make(game="MinAtar/Breakout-v0", num_envs=2, seed=0, **settings):
    task = TaskConfig(name="task", game=game, minatar=MinatarConfig(**settings))
    return make_training_env(task, AtariConfig(), num_envs, seed)


def actions_for(env, steps=STEPS, seed=0):
    return np.random.default_rng(seed).integers(env.action_space.n, size=(steps, env.num_envs))


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"sticky_action_probability": 0.5, "difficulty_ramping": False},
    ],
)
def test_games_are_bit_identical_to_the_packages(package, module, settings):
    ids = {minatar_game(name).module: name for name in minatar_ids() if name.endswith("-v0")}
    env = make(ids[module], num_envs=2, seed=7, **settings)
    config = MinatarConfig(**settings)
    theirs = [package(module, config.sticky_action_probability, config.difficulty_ramping) for _ in range(2)]
    for number, game in enumerate(theirs):
        game.seed(7 + number)
        game.reset()
    observations, ends = env.reset(), 0
    planes = theirs[0].n_channels
    for actions in actions_for(env):
        for shown, game in zip(observations, theirs, strict=True):
            np.testing.assert_array_equal(shown[:planes].transpose(1, 2, 0), game.state() * 255)
            assert not shown[planes:].any()
        observations, rewards, dones, infos = env.step(actions)
        for index, game in enumerate(theirs):
            assert game.act(actions[index]) == (rewards[index], dones[index])
            if dones[index]:
                last = infos[index]["terminal_observation"]
                np.testing.assert_array_equal(last[:planes].transpose(1, 2, 0), game.state() * 255)
                game.reset()
        ends += dones.sum()
    assert ends > 0 or module == "freeway"  # a game of Freeway has 2,500 steps


def test_minimal_actions_are_those_of_the_package(package):
    counts = {name: make(name).action_space.n for name in minatar_ids() if name.endswith("-v1")}
    assert counts == {name: len(package(minatar_game(name).module).minimal_action_set()) for name in counts}
    up = make("MinAtar/Freeway-v1", sticky_action_probability=0.0)
    all_six = make("MinAtar/Freeway-v0", sticky_action_probability=0.0)
    up.reset()
    all_six.reset()
    for _ in range(30):
        np.testing.assert_array_equal(up.step(np.array([1, 2]))[0], all_six.step(np.array([2, 4]))[0])


def test_every_game_has_the_same_spaces():
    for name in minatar_ids():
        env = make(name)
        observations = env.reset()
        assert env.observation_space.shape == (CHANNELS, 10, 10)
        assert observations.shape == (2, CHANNELS, 10, 10)
        assert observations.dtype == env.observation_space.dtype == np.uint8
        assert env.observation_space.contains(np.ascontiguousarray(observations[0]))
        assert env.action_space.n == 6 or name.endswith("-v1")


def test_a_seed_and_the_actions_repeat_a_game_also_in_environments_used_before():
    env = make("MinAtar/Seaquest-v0", num_envs=3, seed=5)
    actions = actions_for(env, 300)

    def played():
        shown = [env.reset()]
        return np.stack(shown + [env.step(action)[0] for action in actions])

    first = played()
    env.seed(5)
    np.testing.assert_array_equal(first, played())
    other = played()  # without a new seed games go on drawing
    assert (other != first).any()
    assert (first[:, 0] != first[:, 1]).any()


def test_evaluation_and_training_play_the_same_game():
    task = TaskConfig(name="task", game="MinAtar/SpaceInvaders-v0")
    envs = [make_env(task, AtariConfig(), 2, 3) for make_env in (make_training_env, make_evaluation_env)]
    shown = [env.reset() for env in envs]
    for actions in actions_for(envs[0], 100):
        np.testing.assert_array_equal(*shown)
        shown = [env.step(actions)[0] for env in envs]


def test_a_finished_game_reports_its_return_and_length():
    env = make("MinAtar/Asterix-v0", num_envs=4)
    env.reset()
    returns, lengths, games = np.zeros(4), np.zeros(4, int), 0
    for actions in actions_for(env, 2000):
        _, rewards, dones, infos = env.step(actions)
        returns, lengths = returns + rewards, lengths + 1
        for index in np.flatnonzero(dones):
            episode = infos[index]["episode"]
            assert (episode["r"], episode["l"]) == (returns[index], lengths[index])
            assert infos[index]["TimeLimit.truncated"] is False
            returns[index] = lengths[index] = 0
            games += 1
        assert all(not info for info, done in zip(infos, dones, strict=True) if not done)
    assert games > 10


def test_later_steps_do_not_change_what_was_returned():
    env = make(num_envs=3)
    kept = [env.reset()]
    copies = [kept[0].copy()]
    for actions in actions_for(env, 60):
        observations, rewards, dones, infos = env.step(actions)
        arrays = [observations, rewards, dones, *(x["terminal_observation"] for x in infos if x)]
        kept += arrays
        copies += [array.copy() for array in arrays]
    for array, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("action", [-1, 6])
def test_actions_outside_the_set_are_refused(action):
    env = make().unwrapped
    env.reset()
    with pytest.raises(ValueError, match="expected 0 to 5"):
        env.step(np.array([0, action]))


def test_attributes_are_shared_by_all_games():
    env = make(num_envs=3).unwrapped
    assert env.get_attr("num_envs", indices=[0, 2]) == [3, 3]
    assert env.env_is_wrapped(Monitor) == [True] * 3
    assert env.env_is_wrapped(TransformObservation, indices=0) == [False]
    with pytest.raises(AttributeError, match="no Python methods"):
        env.env_method("render")


def test_settings_of_other_games_and_bad_seeds_are_refused():
    with pytest.raises(UserError, match=r"observation_mix_seed = 3 .* shows images"):
        make_training_env(
            TaskConfig(name="task", game="MinAtar/Breakout-v0", observation_mix_seed=3), AtariConfig(), 1, 0
        )
    with pytest.raises(UserError, match="seed -1"):
        make(seed=-1)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("MinAtar/Breakout-v0", "MinAtar/Breakout-v0"),
        ("minatar/spaceinvaders-V1", "MinAtar/SpaceInvaders-v1"),
        ("minatar:MinAtar/Freeway-v0", "MinAtar/Freeway-v0"),
        ("minatar.gym:MinAtar/Freeway-v1", "MinAtar/Freeway-v1"),
    ],
)
def test_ids_are_known_in_any_case(name, known):
    assert check_game(name) == known


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("MinAtar/Breakot-v1", r"unknown game 'MinAtar/Breakot-v1': did you mean MinAtar/Breakout-v1\?"),
        ("MinAtar/Breakout", r"did you mean MinAtar/Breakout-v[01]\? \(-v0: all six actions"),
        ("MinAtar/Xyzzyxyzzyxyzzyxyzzy", r"expected one of MinAtar/Asterix-v0, .*SpaceInvaders-v1"),
        ("MinAttar/Breakout-v0", r"did you mean MinAtar/Breakout-v0\?"),
    ],
)
def test_a_misspelt_id_is_answered_with_the_nearest_one(name, message):
    with pytest.raises(UserError, match=message):
        check_game(name)


def test_a_missing_package_is_answered_with_how_to_install_it(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "minatar" else find(name, *a))
    with pytest.raises(
        UserError, match=r"'MinAtar/Breakout-v0' needs the package MinAtar, .*pip install .*\[minatar\]'"
    ):
        check_game("MinAtar/Breakout-v0")
    assert check_game("pong") == "pong"


def test_playing_does_not_import_the_package_and_its_viewers_libraries(monkeypatch):
    for module in [name for name in sys.modules if name.partition(".")[0] in {"minatar", "seaborn"}]:
        monkeypatch.delitem(sys.modules, module)
    minatar._module.cache_clear()
    assert make("MinAtar/Freeway-v0").reset().any()
    assert not {"minatar", "seaborn"} & set(sys.modules)
