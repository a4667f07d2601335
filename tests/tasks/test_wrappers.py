"""Wrappers of a task are applied in training, evaluation and rendering, and invalid ones are refused."""

import re

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from blip_rl.config import AtariConfig
from blip_rl.errors import UserError
from blip_rl.task_schedule import TaskConfig
from blip_rl.tasks.make import make_evaluation_env, make_training_env
from blip_rl.tasks.pictures import make_screen
from blip_rl.tasks.wrappers import _REFUSED
from tests.doors import FLAT, GAME, Door

SCALED = {"wrapper": "tests.doors:Scaled", "factor": 3}


def task(*wrappers, game=GAME, **settings):
    return TaskConfig(name="door", game=game, wrappers=wrappers, **settings)


@pytest.mark.parametrize("make", [make_training_env, make_evaluation_env])
def test_wrappers_are_applied_in_order(make):
    env = make(task(FLAT, SCALED), AtariConfig(), 2, 0)
    observations = env.reset()
    assert observations.shape == (2, 5)
    key = observations[:, :2].argmax(axis=1)
    np.testing.assert_array_equal(env.step(key)[1], [3.0, 3.0])


def test_observations_are_mixed_after_the_wrappers():
    plain, mixed = (
        make_evaluation_env(task(FLAT, observation_mix_seed=seed), AtariConfig(), 1, 0).reset() for seed in (None, 1)
    )
    assert not np.allclose(plain, mixed)
    np.testing.assert_allclose(np.linalg.norm(plain), np.linalg.norm(mixed), rtol=1e-5)


def test_a_screen_follows_the_wrapped_game():
    limited = task(FLAT, {"wrapper": "gymnasium.wrappers:TimeLimit", "max_episode_steps": 4}, SCALED)
    env, screen = make_evaluation_env(limited, AtariConfig(), 1, 7), make_screen(limited, AtariConfig(), 7)
    env.reset(), screen.reset()
    for _ in range(4):
        (_, rewards, dones, _), moment = env.step(np.ones(1, dtype=int)), screen.step(1)
        assert (moment.reward, moment.over) == (rewards[0], dones[0])
    assert moment.over


@pytest.mark.parametrize(
    ("wrapper", "message"),
    [
        ("no_such_package:Wrapper", r"cannot be imported: ModuleNotFoundError.* \(install its package"),
        ("tests.doors:Scale", r"has no wrapper 'Scale': did you mean Scaled\?: expected a class"),
        ("tests.doors:function", "is no class but function 'function'"),
        ("tests.doors:NoEnvironment", r"makes an object of class NoEnvironment: expected a gymnasium\.Env"),
        ({"wrapper": "tests.doors:Scaled", "factors": 3}, r"TypeError: .*\(arguments of the recipe: factors; correct"),
        ("gymnasium.wrappers:FlatenObservation", r"did you mean FlattenObservation\?"),
        ("gymnasium.wrappers:Any", "has no wrapper 'Any'"),
        ({"wrapper": "gymnasium.wrappers:RecordVideo", "video_folder": "videos"}, "writes files: use blip-rl render"),
        ("gymnasium.wrappers:NormalizeObservation", "which snapshots do not save"),
        ({"wrapper": "gymnasium.wrappers:TransformReward", "func": "abs"}, "needs a Python function"),
    ],
)
def test_invalid_wrappers_are_refused(wrapper, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"game '{GAME}': wrapper .*{message}"):
        make_training_env(task(wrapper), AtariConfig(), 1, 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrappers",
    [
        [{"wrapper": "gymnasium.wrappers:FrameStackObservation", "stack_size": 10**7}],
        [{"wrapper": "gymnasium.wrappers:DiscretizeObservation", "bins": [10**4] * 4}],
        [{"wrapper": "gymnasium.wrappers:DiscretizeObservation", "bins": 100}, FLAT],
    ],
)
def test_wrappers_that_would_take_all_memory_are_refused(wrappers):
    with pytest.raises(UserError, match=r"0,000 entries: expected at most 10,000,000 \(correct its arguments\)"):
        make_training_env(
            task(*wrappers, game="Acrobot-v1" if FLAT in wrappers else "CartPole-v1"), AtariConfig(), 1, 0
        )


def test_every_wrapper_that_gymnasium_adds_is_decided_upon():
    """Recipes of strangers may use all wrappers of Gymnasium except for those that are refused by name."""
    harmless = {
        "AtariPreprocessing", "DelayObservation", "DtypeObservation", "DiscretizeObservation", "FilterObservation",
        "FlattenObservation", "FrameStackObservation", "GrayscaleObservation", "MaxAndSkipObservation",
        "AddRenderObservation", "ResizeObservation", "ReshapeObservation", "RescaleObservation", "TimeAwareObservation",
        "ClipAction", "DiscretizeAction", "RescaleAction", "StickyAction", "RepeatAction", "ClipReward", "TimeLimit",
        "PassiveEnvChecker", "OrderEnforcing", "RecordEpisodeStatistics", "AddWhiteNoise", "ObstructView",
        "ArrayConversion", "JaxToNumpy", "JaxToTorch", "NumpyToTorch", "vector",
    }  # fmt: skip
    assert set(gymnasium.wrappers.__all__) <= set(_REFUSED) | harmless


def test_dictionaries_are_refused_with_the_wrapper_that_flattens_them():
    with pytest.raises(UserError, match=rf'observations Dict.* wrappers = \["{FLAT}"\] in a sequence recipe'):
        make_training_env(task(), AtariConfig(), 1, 0)


def test_dictionaries_with_texts_are_refused_with_the_wrappers_that_leave_these_out(monkeypatch):
    class Mission(spaces.Space):
        """Not flattenable, as MiniGrid's."""

    parts = {"mission": Mission(), "place": spaces.Box(-1, 1, (3,), np.float32)}
    monkeypatch.setattr(Door, "observation_space", spaces.Dict(parts))
    filtered = re.escape('{ wrapper = "gymnasium.wrappers:FilterObservation", filter_keys = ["place"] }, "')
    with pytest.raises(UserError, match=rf"wrappers = \[{filtered}{FLAT}"):
        make_training_env(task(), AtariConfig(), 1, 0)
    monkeypatch.setattr(Door, "observation_space", Mission())
    with pytest.raises(UserError, match="give the task a wrapper that makes vectors of them"):
        make_training_env(task(), AtariConfig(), 1, 0)


@pytest.mark.parametrize(("game", "kind"), [("pong", "Atari"), ("MinAtar/Breakout-v0", "MinAtar")])
def test_games_that_are_stepped_together_take_no_wrappers(game, kind):
    if kind == "MinAtar":
        pytest.importorskip("minatar")
    with pytest.raises(UserError, match=rf"task 'door': wrappers = \['{FLAT}'.* is a game of {kind}.*remove them"):
        make_training_env(task(FLAT, game=game), AtariConfig(), 1, 0)
