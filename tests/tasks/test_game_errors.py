"""Non-finite values from a game raise an error that names the game, the copy and its seed."""

import gymnasium
import numpy as np
import pytest

from blip_rl.config import AtariConfig
from blip_rl.errors import RunError
from blip_rl.run.train import train
from blip_rl.task_schedule import TaskConfig
from blip_rl.tasks.make import make_evaluation_env, make_training_env
from blip_rl.tasks.pictures import ControlScreen
from tests.run.broken_off import settings, small_run

FAULTY = "FaultyNumbers-v0"


class FaultyNumbers(gymnasium.Env):
    """Copies with an odd seed return a non-finite value from step ``at`` on; copies with even seeds never do."""

    observation_space = gymnasium.spaces.Box(-1, 1, (4,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    fault, at = "observation", 3

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.odd = bool(seed % 2)
        self.steps = 0
        return self._observed("first observation"), {}

    def step(self, action):
        self.steps += 1
        wrong = self.fault == "reward" and self.odd and self.steps >= self.at
        last = self.fault == "last observation" and self.odd
        observation = np.full(4, np.inf, np.float32) if last and self.steps == 20 else self._observed("observation")
        return observation, np.inf if wrong else 1.0, self.steps == 20, False, {}

    def render(self):
        return np.zeros((8, 8, 3), np.uint8)

    def _observed(self, fault):
        observation = np.zeros(4, np.float32)
        if self.fault == fault and self.odd and (fault.startswith("first") or self.steps >= self.at):
            observation[2] = np.nan
        return observation


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    gymnasium.register(FAULTY, FaultyNumbers, disable_env_checker=True, order_enforce=False)
    yield
    del gymnasium.registry[FAULTY]


TASK = TaskConfig(name="faulty", game=FAULTY)


def play(env):
    try:
        env.reset()
        for _ in range(30):
            env.step(np.zeros(env.num_envs, np.int64))
    finally:
        env.close()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("observation", "returned the observation nan at index 2: expected finite numbers"),
        ("first observation", "returned the observation nan at index 2"),
        ("last observation", "returned the observation inf at index 0"),
        ("reward", "returned the reward inf: expected finite numbers"),
    ],
)
@pytest.mark.parametrize("groups", [1, 2])
def test_errors_name_game_copy_and_seed_in_training_and_evaluation(fault, message, groups, monkeypatch):
    monkeypatch.setattr(FaultyNumbers, "fault", fault)
    copies = [(make_training_env(TASK, AtariConfig(), 4, 10, groups), "environment 1, seed 11")]
    copies += [(make_evaluation_env(TASK, AtariConfig(), 2, 21), "environment 0, seed 21")]
    for env, which in copies:
        with pytest.raises(RunError, match=message) as caught:
            play(env)
        assert f"the game {FAULTY} " in str(caught.value)
        assert f"({which})" in str(caught.value)


def test_copies_are_numbered_across_groups():
    env = make_training_env(TASK, AtariConfig(), 4, 7, 4)
    env.seed(8)  # copy 1 has seed 9
    with pytest.raises(RunError, match="environment 1, seed 9"):
        play(env)
    env = make_training_env(TASK, AtariConfig(), 2, 8, 2)
    with pytest.raises(RunError, match="environment 1, seed 9"):
        play(env)


def test_rendered_games_are_checked_too(monkeypatch):
    screen = ControlScreen(FAULTY, 5)
    screen.reset()
    with pytest.raises(RunError, match=rf"{FAULTY} returned the observation nan .*environment 0, seed 5"):
        [screen.step(0) for _ in range(5)]
    monkeypatch.setattr(FaultyNumbers, "fault", "reward")
    screen.reset()
    with pytest.raises(RunError, match="returned the reward inf"):
        [screen.step(0) for _ in range(5)]


def test_a_failing_game_is_not_reported_as_divergence(tmp_path):
    with pytest.raises(RunError) as caught:
        train(small_run("finetune", FAULTY, "128", settings("finetune")), out=tmp_path / "run", threads=1, quiet=True)
    message = str(caught.value)
    assert f"the game {FAULTY} returned the observation nan" in message
    assert "resume with: blip-rl train --resume" in message
    assert "learning_rate" not in message
