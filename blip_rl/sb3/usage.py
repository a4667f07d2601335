"""How an exported agent is played without this package: a few lines of Python that work."""

from __future__ import annotations

from pathlib import Path

from blip_rl.config import RunConfig, TaskConfig
from blip_rl.evaluation.episodes import FIRST_EVALUATION_SEED
from blip_rl.tasks.games import rom_name

_ATARI = """\
from ale_py import AtariVectorEnv
from stable_baselines3 import PPO

agent = PPO.load({file!r}, device="cpu")
game = AtariVectorEnv(
    {rom!r}, num_envs=1, img_height={size}, img_width={size}, stack_num={stack}, frameskip={skip},
    repeat_action_probability={sticky}, noop_max={noop}, use_fire_reset={fire}, full_action_space={full},
    max_num_frames_per_episode={most}, episodic_life=False, reward_clipping=False, autoreset_mode="SameStep",
)
observations, _ = game.reset(seed={seed})
score, over = 0.0, False
while not over:
    actions, _ = agent.predict(observations, deterministic={greedy})
    observations, rewards, ends, cuts, _ = game.step(actions.astype("int32"))
    score, over = score + float(rewards[0]), bool(ends[0] or cuts[0])
print(score)
"""

_GYMNASIUM = """\
import gymnasium
from stable_baselines3 import PPO

agent = PPO.load({file!r}, device="cpu")
game = gymnasium.make({game!r})
observation, _ = game.reset(seed={seed})
score, over = 0.0, False
while not over:
    action, _ = agent.predict(observation, deterministic={greedy})
    observation, reward, end, cut, _ = game.step(action)
    score, over = score + float(reward), end or cut
print(score)
"""


def usage(file: Path, task: TaskConfig, config: RunConfig) -> str:
    """Python code that plays the first episode of the run's evaluation with an exported agent, and prints its score."""
    atari, rom = config.atari, rom_name(task.game)
    return (_GYMNASIUM if rom is None else _ATARI).format(
        file=str(file),
        game=task.game,
        rom=rom,
        size=atari.frame_size,
        stack=atari.frame_stack,
        skip=atari.frame_skip,
        sticky=atari.sticky_action_probability,
        noop=atari.noop_max,
        fire=atari.fire_on_reset,
        full=atari.full_action_space,
        most=atari.max_episode_frames,
        seed=FIRST_EVALUATION_SEED + config.evaluation.seed,
        greedy=config.evaluation.actions == "greedy",
    )
