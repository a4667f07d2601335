"""Training and evaluation environments of a task."""

import subprocess
import sys

import numpy as np
import pytest

from blip_rl.config import AtariConfig
from blip_rl.errors import UserError
from blip_rl.task_schedule import TaskConfig
from blip_rl.tasks.make import make_evaluation_env, make_training_env

MAKERS = [make_training_env, make_evaluation_env]


def task(game, **settings):
    return TaskConfig(name="task", game=game, **settings)


def test_importing_the_module_imports_no_slow_library():
    code = (
        "import sys, blip_rl.tasks.make, blip_rl.tasks.games as games; games.is_atari('pong');"
        "print([m for m in ('ale_py', 'gymnasium', 'numpy', 'torch', 'stable_baselines3') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("game", ["space_invaders", "ALE/SpaceInvaders-v5"])
def test_training_clips_rewards_and_ends_episodes_at_lost_lives_and_evaluation_does_not(game):
    atari = AtariConfig(noop_max=0, fire_on_reset=False)
    ends, rewards = [], []
    for make in MAKERS:
        env = make(task(game), atari, 2, 0)
        env.reset()
        actions = np.random.default_rng(0).integers(6, size=(230, 2))
        steps = [env.step(action) for action in actions]
        rewards.append(np.stack([step[1] for step in steps]))
        ends.append(np.stack([step[2] for step in steps]))
    assert ends[0].sum() == 2
    assert ends[1].sum() == 0
    np.testing.assert_array_equal(rewards[0], np.sign(rewards[1]))
    assert rewards[1].max() > 1


@pytest.mark.parametrize("make", MAKERS)
def test_gymnasium_environments_are_made_and_mixed(make):
    plain = make(task("CartPole-v1"), AtariConfig(), 3, 0).reset()
    mixed = make(task("CartPole-v1", observation_mix_seed=2), AtariConfig(), 3, 0).reset()
    assert plain.shape == mixed.shape == (3, 4)
    assert not np.allclose(plain, mixed)
    np.testing.assert_allclose(np.linalg.norm(plain, axis=1), np.linalg.norm(mixed, axis=1), rtol=1e-5)


@pytest.mark.parametrize("make", MAKERS)
def test_the_frame_limit_is_applied(make):
    env = make(task("boxing"), AtariConfig(max_episode_frames=8), 1, 0)
    env.reset()
    assert [env.step(np.zeros(1, dtype=int))[2].item() for _ in range(4)] == [False, True, False, True]


@pytest.mark.parametrize("make", MAKERS)
def test_invalid_tasks_are_rejected(make):
    with pytest.raises(UserError, match=r"did you mean boxing?"):
        make(task("boxin"), AtariConfig(), 1, 0)
    with pytest.raises(UserError, match=r"task 'task': observation_mix_seed = 3 .* 'boxing' shows images"):
        make(task("ALE/Boxing-v5", observation_mix_seed=3), AtariConfig(), 1, 0)
    with pytest.raises(UserError, match="seed -1"):
        make(task("boxing"), AtariConfig(), 1, -1)
