"""The emulator of other modes plays the default mode as AtariVectorEnv does."""

import numpy as np
import pytest

from blip_rl.config import AtariConfig
from blip_rl.errors import UserError
from blip_rl.recipes import resolve
from blip_rl.task_schedule import TaskConfig
from blip_rl.tasks.ale_modes import ModeVectorEnv, View
from blip_rl.tasks.emulator import load_emulator
from blip_rl.tasks.make import make_evaluation_env, make_training_env
from blip_rl.tasks.pictures import make_screen

VIEW = {"img_height": 84, "img_width": 84, "stack_num": 4, "life_loss_info": True}


def outcomes(step):
    observations, rewards, terminated, truncated, info = step
    counters = [info[key] for key in ("lives", "frame_number", "episode_frame_number")]
    return observations, [np.asarray(value).tolist() for value in (rewards, terminated, truncated, *counters)]


@pytest.mark.parametrize(
    ("game", "options"),
    [
        ("boxing", {"max_episode_frames": 600}),  # truncated
        ("breakout", {"sticky_action_probability": 0.25}),  # lives, and a game that waits for the fire button
        ("freeway", {"frame_skip": 1, "full_action_space": True, "fire_on_reset": False}),
    ],
)
def test_the_default_mode_equals_the_vector_environment(game, options):
    config = AtariConfig(noop_max=0, **options)
    theirs = load_emulator(game, 2, config, num_threads=1, **VIEW)
    mine = ModeVectorEnv(game, 2, config, (None, None), View(**VIEW))
    assert mine.single_observation_space == theirs.single_observation_space
    assert mine.single_action_space.n == theirs.single_action_space.n
    seeds, draws = np.array([5, 6]), np.random.default_rng(0)
    first, own = theirs.reset(seed=seeds)[0], mine.reset(seed=seeds)[0]
    assert np.abs(first.astype(int) - own).max() <= 1
    ends = 0
    for _ in range(250):
        actions = draws.integers(0, mine.single_action_space.n, 2).astype(np.int32)
        (expected, numbers), (observed, mine_numbers) = outcomes(theirs.step(actions)), outcomes(mine.step(actions))
        assert numbers == mine_numbers
        assert np.abs(expected.astype(int) - observed).max() <= 1
        ends += sum(numbers[1]) + sum(numbers[2])
    assert ends or game == "freeway"


def played(task, seed=3, steps=40):
    env = make_training_env(task, AtariConfig(), 2, seed)
    frames = [env.reset()]
    frames += [env.step(np.array([step % 3, 0]))[0] for step in range(steps)]
    env.close()
    return np.stack(frames)


def test_modes_differ_and_repeat_from_the_seed():
    tasks = [TaskConfig(name="freeway", game="freeway", mode=mode) for mode in (0, 3)]
    default, other = map(played, tasks)
    assert np.array_equal(other, played(tasks[1]))
    assert not np.array_equal(default, other)
    assert not np.array_equal(other, played(tasks[1], seed=4))


def test_a_film_of_a_mode_replays_the_agents_game():
    task, actions = TaskConfig(name="freeway", game="freeway", mode=3, difficulty=1), [1, 0, 2] * 5
    env = make_evaluation_env(task, AtariConfig(), 1, 7)
    env.reset()
    screen = make_screen(task, AtariConfig(), 7)
    screen.reset()
    for action in actions:
        observations, rewards, _, _ = env.step(np.array([action]))
        moment = screen.step(action)
        assert moment.reward == rewards[0]
    grey = moment.picture.astype(float) @ [0.299, 0.587, 0.114]
    blocks = grey[:210, :160].reshape(42, 5, 40, 4).mean((1, 3))
    seen = observations[0, -1].astype(float).reshape(42, 2, 42, 2).mean((1, 3))
    assert np.corrcoef(blocks.mean(1), seen.mean(1))[0, 1] > 0.99
    env.close()
    screen.close()


@pytest.mark.parametrize(
    ("game", "settings", "message"),
    [
        ("freeway", {"mode": 9}, "mode = 9: freeway has the modes 0, 1, 2, 3, 4, 5, 6, 7"),
        ("freeway", {"difficulty": 2}, "difficulty = 2: freeway has the difficulties 0, 1"),
        ("CartPole-v1", {"mode": 1}, "task 'x': mode = 1 is a setting of Atari games, but 'CartPole-v1' is none"),
    ],
)
def test_a_mode_that_the_game_does_not_have_is_refused(game, settings, message):
    with pytest.raises(UserError, match=message):
        make_training_env(TaskConfig(name="x", game=game, **settings), AtariConfig(), 1, 0)


def test_sequences_of_modes_are_not_normalised_by_the_default_modes_scores():
    for name, modes in (("freeway-modes", 8), ("spaceinvaders-modes", 10)):
        tasks = resolve(name, "blip").tasks
        assert [task.mode for task in tasks] == list(range(modes))
        assert not any(task.has_normalisers for task in tasks)
    assert resolve("freeway-3", "blip").tasks[0].mode == 3
    assert resolve("freeway", "blip").tasks[0].mode is None


def test_a_task_of_a_task_blind_sequence_is_an_ordinary_game_on_its_own():
    config = resolve("qbert", "blip")
    assert (config.agent.trunk.heads, config.atari.sticky_action_probability) == ("per-task", 0.0)
    whole = resolve("carmack8", "blip")
    assert (whole.stages, whole.agent.trunk.heads, whole.atari.full_action_space) == (24, "shared", True)
    assert resolve("krull", "blip").tasks[0].steps == 10_000_000


@pytest.mark.parametrize("game", ["carnival", "pacman"])
def test_coloured_frames_of_screens_of_other_sizes_are_resized(game):
    task = TaskConfig(name=game, game=game, steps=1, mode=0 if game == "carnival" else 3)
    grey, colour = (
        ModeVectorEnv(game, 1, AtariConfig(), (task.mode, None), View(105, 80, 1, shades)) for shades in (True, False)
    )
    seen = [np.asarray(env.reset(seed=np.array([0]))[0], np.float64) for env in (grey, colour)]
    luma = seen[1] @ [0.299, 0.587, 0.114]
    assert np.abs(luma.squeeze() - seen[0].squeeze()).mean() < 3
    assert make_screen(task, AtariConfig(), 0) is not None
