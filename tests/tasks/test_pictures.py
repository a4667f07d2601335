"""Rendering: the second emulator plays the same game as the agent, in native colours."""

import itertools

import cv2
import gymnasium
import numpy as np
import pytest

from blip_rl.config import AtariConfig
from blip_rl.errors import RunError, UserError
from blip_rl.task_schedule import TaskConfig
from blip_rl.tasks.make import make_evaluation_env
from blip_rl.tasks.pictures import AtariScreen, ControlScreen, Moment, check_pictures, make_screen, replay

SIX = ("kung_fu_master", "boxing", "jamesbond", "krull", "riverraid", "space_invaders")
DECISIONS = 300
# Everything that draws at random or counts frames is on; the frame limit ends every game within the test.
ATARI = AtariConfig(sticky_action_probability=0.25, noop_max=30, fire_on_reset=True, max_episode_frames=4 * 250)


def luma(picture):
    """The agent's observation, recomputed: luma, then the mean over each of 84 × 84 areas."""
    return cv2.resize(picture @ np.array([0.299, 0.587, 0.114]), (84, 84), interpolation=cv2.INTER_AREA)


def distance(picture, frame):
    return np.abs(luma(picture) - frame).mean()


@pytest.mark.parametrize("game", SIX)
def test_an_atari_screen_plays_the_agents_game(game):
    task = TaskConfig(name="game", game=game)
    env, screen = make_evaluation_env(task, ATARI, 1, 2**30 + 7), make_screen(task, ATARI, 2**30 + 7)
    observations, before = env.reset(), screen.reset()
    assert distance(before, observations[0, -1]) < 1.5
    assert env.lives[0] == screen.lives
    rng, ours, stale = np.random.default_rng(0), 0.0, 0.0
    for _ in range(DECISIONS):
        action = int(rng.integers(env.action_space.n))
        observations, rewards, dones, infos = env.step(np.array([action]))
        moment = screen.step(action)
        assert (moment.reward, moment.over, screen.lives) == (rewards[0], dones[0], env.lives[0])
        frame = infos[0]["terminal_observation"][-1] if dones[0] else observations[0, -1]
        assert moment.picture.shape == (210, 160, 3)
        # Not zero: both take the maximum of two frames, the agent in grey and the screen per colour channel.
        assert distance(moment.picture, frame) < 1.5
        ours, stale, before = ours + distance(moment.picture, frame), stale + distance(before, frame), moment.picture
        if moment.over:
            break
    assert moment.over
    assert ours < stale
    assert np.ptp(moment.picture.astype(int), axis=2).max() > 40  # colours, not grey
    env.close()
    screen.close()


def test_a_control_screen_plays_the_agents_game_without_mixing():
    task = TaskConfig(name="mixed", game="CartPole-v1", observation_mix_seed=3)
    env, screen = make_evaluation_env(task, AtariConfig(), 1, 2**30 + 1), make_screen(task, AtariConfig(), 2**30 + 1)
    plain = gymnasium.make("CartPole-v1", render_mode="rgb_array")
    plain.reset(seed=2**30 + 1)
    env.reset()
    np.testing.assert_array_equal(screen.reset(), plain.render())
    rng, over = np.random.default_rng(0), False
    while not over:
        action = rng.integers(2)
        _, rewards, dones, _ = env.step(np.array([action]))
        moment, over = screen.step(action), bool(dones[0])
        plain.step(action)
        assert (moment.reward, moment.over) == (rewards[0], over)
        np.testing.assert_array_equal(moment.picture, plain.render())
    assert screen.decisions_per_second == 50
    screen.close()


def test_steps_per_second_follow_from_the_frame_skip():
    for frames, rate in ((4, 15), (2, 30)):
        screen = AtariScreen("boxing", 0, AtariConfig(frame_skip=frames))
        assert screen.decisions_per_second == rate
        screen.close()


def test_a_replay_yields_one_frame_more_than_actions_and_is_deterministic():
    def shown():
        return list(replay(AtariScreen("krull", 5, AtariConfig()), [0, 1, 2, 3, 4, 5] * 5))

    first, second = shown(), shown()
    assert len(first) == 31
    np.testing.assert_array_equal(first, second)
    assert any((a != b).any() for a, b in itertools.pairwise(first))


class Short:
    """A game that is over after two steps."""

    game, seed = "short", 3
    decisions_per_second = 1.0
    closed = False
    count = 0

    def reset(self):
        return np.zeros((2, 2, 3), np.uint8)

    def step(self, action):
        self.count += 1
        return Moment(self.reset(), 0.0, self.count == 2)

    def close(self):
        self.closed = True


def test_a_replayed_game_that_ends_early_raises():
    screen = Short()
    assert len(list(replay(screen, [0, 0]))) == 3
    assert screen.closed
    with pytest.raises(RunError, match="ended after 2 decisions"):
        list(replay(Short(), [0, 0, 0]))


class Drawing(gymnasium.Env):
    """Renders the given picture, or raises the given error."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, drawn=None, render_mode=None):
        self._drawn, self.render_mode = drawn, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def render(self):
        if isinstance(self._drawn, Exception):
            raise self._drawn
        return self._drawn


class Blind(Drawing):
    metadata = {"render_modes": ["human"]}  # noqa: RUF012


MISSING = gymnasium.error.DependencyNotInstalled("pygame is not installed")


@pytest.mark.parametrize(
    ("entry_point", "drawn", "wanted"),
    [
        (Blind, None, r"cannot be rendered: its render modes are human, expected rgb_array.*--games"),
        (Drawing, MISSING, r"pygame is not installed.*pip install .*\[control\]'"),
        (Drawing, np.zeros((4, 4), np.uint8), r"draws uint8 of shape \(4, 4\)"),
        (Drawing, np.zeros((4, 4, 3)), r"draws float64 of shape"),
    ],
)
def test_games_that_cannot_be_rendered_are_rejected(monkeypatch, entry_point, drawn, wanted):
    spec = gymnasium.envs.registration.EnvSpec(
        "Drawn-v0", entry_point=entry_point, kwargs={"drawn": drawn}, disable_env_checker=True
    )
    monkeypatch.setitem(gymnasium.registry, "Drawn-v0", spec)
    with pytest.raises(UserError, match=wanted):
        check_pictures(TaskConfig(name="x", game="Drawn-v0"), AtariConfig())


def test_bad_games_and_seeds_are_rejected():
    with pytest.raises(UserError, match="unknown game"):
        make_screen(TaskConfig(name="x", game="kung_foo"), AtariConfig(), 0)
    with pytest.raises(UserError, match="seed"):
        make_screen(TaskConfig(name="x", game="boxing"), AtariConfig(), 2**31)


def test_closing_a_screen_is_idempotent():
    for screen in (AtariScreen("boxing", 0, AtariConfig()), ControlScreen("CartPole-v1", 0)):
        screen.reset()
        screen.close()
        screen.close()
