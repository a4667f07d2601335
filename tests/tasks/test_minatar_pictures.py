"""Pictures of MinAtar: the agent's game in the colours of the package's viewer."""

import matplotlib as mpl
import numpy as np
import pytest

from blip_rl.config import AtariConfig
from blip_rl.task_schedule import TaskConfig
from blip_rl.tasks.make import make_evaluation_env
from blip_rl.tasks.minatar_pictures import cubehelix
from blip_rl.tasks.pictures import check_pictures, make_screen, replay


@pytest.mark.parametrize("colours", [4, 6, 7, 10])
def test_colours_are_those_of_the_packages_viewer(colours):
    # seaborn.color_palette("cubehelix", n) takes n evenly spaced entries of Matplotlib's table, without its ends.
    table = mpl.colormaps["cubehelix"](np.linspace(0, 1, colours + 2)[1:-1])[:, :3]
    np.testing.assert_allclose(cubehelix(colours), table * 255, atol=0.51)


def test_a_screen_follows_the_agents_game():
    task = TaskConfig(name="task", game="MinAtar/SpaceInvaders-v0")
    env, screen = make_evaluation_env(task, AtariConfig(), 1, 2**30 + 7), make_screen(task, AtariConfig(), 2**30 + 7)
    colours = np.concatenate([[[0, 0, 0]], cubehelix(6)])

    def expected(observation):
        cells = np.zeros((10, 10), int)
        for plane in range(6):
            cells[observation[plane] > 0] = plane + 1
        return colours[cells]

    observations = env.reset()
    np.testing.assert_array_equal(screen.reset()[8::16, 8::16], expected(observations[0]))
    rng, games = np.random.default_rng(0), 0
    while not games:
        action = int(rng.integers(6))
        observations, rewards, dones, infos = env.step(np.array([action]))
        moment = screen.step(action)
        shown = infos[0]["terminal_observation"] if dones[0] else observations[0]
        assert (moment.reward, moment.over) == (rewards[0], dones[0])
        assert moment.picture.shape == (160, 160, 3)
        np.testing.assert_array_equal(moment.picture[8::16, 8::16], expected(shown))
        games += dones[0]
    screen.close()


def test_a_replay_is_the_same_twice():
    task = TaskConfig(name="task", game="MinAtar/Breakout-v1")
    check_pictures(task, AtariConfig())
    first, second = (list(replay(make_screen(task, AtariConfig(), 5), [0, 1, 2, 0])) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert len(first) == 5
