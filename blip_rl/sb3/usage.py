"""Python code that plays an exported agent without blip-rl."""

from __future__ import annotations

from pathlib import Path

from blip_rl.config import RunConfig
from blip_rl.task_schedule import MinatarConfig, TaskConfig
from blip_rl.tasks.games import rom_name
from blip_rl.tasks.minatar import CHANNELS, Game
from blip_rl.tasks.minatar_names import minatar_game
from blip_rl.wrapper_config import WrapperConfig

_ATARI = """\
from ale_py import AtariVectorEnv
from stable_baselines3 import PPO

agent = PPO.load({file!r}, device="cpu")
game = AtariVectorEnv(
    {rom!r}, num_envs=1, img_height={size}, img_width={size}, stack_num={stack}, frameskip={skip},
    repeat_action_probability={sticky}, noop_max={noop}, use_fire_reset={fire}, full_action_space={full},
    max_num_frames_per_episode={most}, episodic_life=False, reward_clipping=False, autoreset_mode="SameStep",
)
observations, _ = game.reset(seed=2**30 + {seed})  # evaluation seed {seed}
score, over = 0.0, False
while not over:
    actions, _ = agent.predict(observations, deterministic={greedy})
    observations, rewards, ends, cuts, _ = game.step(actions.astype("int32"))
    score, over = score + float(rewards[0]), bool(ends[0] or cuts[0])
print(score)
"""

# AtariVectorEnv cannot set modes: pixels may differ by rounding, and another generator draws the no-ops at the start.
_ATARI_MODES = """\
from ale_py import Action, AtariEnv
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation
from stable_baselines3 import PPO

agent = PPO.load({file!r}, device="cpu")
emulator = AtariEnv(  # in the mode and difficulty that the agent has learned
    {rom!r}, {flavour}, frameskip=1, repeat_action_probability={sticky}, full_action_space={full},
    max_num_frames_per_episode={most},
)
game = AtariPreprocessing(emulator, noop_max={noop}, frame_skip={skip}, screen_size={size})
game = FrameStackObservation(game, {stack}, padding_type="zero")
observation, _ = game.reset(seed=2**30 + {seed})  # evaluation seed {seed}
if {fire} and "FIRE" in emulator.get_action_meanings():
    emulator.ale.act(Action.FIRE)  # starts games that wait for it
score, over = 0.0, False
while not over:
    action, _ = agent.predict(observation, deterministic={greedy})
    observation, reward, end, cut, _ = game.step(int(action))
    score, over = score + float(reward), end or cut
print(score)
"""

_GYMNASIUM = """\
import gymnasium
{imports}from stable_baselines3 import PPO

agent = PPO.load({file!r}, device="cpu")
game = gymnasium.make({game!r})
{wraps}observation, _ = game.reset(seed=2**30 + {seed})  # evaluation seed {seed}
score, over = 0.0, False
while not over:
    action, _ = agent.predict(observation, deterministic={greedy})
    observation, reward, end, cut, _ = game.step(action)
    score, over = score + float(reward), end or cut
print(score)
"""

_MINATAR = """\
import numpy as np
from minatar import Environment
from stable_baselines3 import PPO

agent = PPO.load({file!r}, device="cpu")
game = Environment({module!r}, sticky_action_prob={sticky}, difficulty_ramping={ramping})
game.seed(2**30 + {seed})  # evaluation seed {seed}
game.reset()
score = 0.0
for _ in range({most}):  # a game may have no end
    planes = game.state()
    observation = np.zeros(({channels}, 10, 10), np.uint8)
    observation[: planes.shape[2]] = 255 * planes.transpose(2, 0, 1)
    action, _ = agent.predict(observation, deterministic={greedy})
    reward, over = game.act({actions}[int(action)])
    score += float(reward)
    if over:
        break
print(score)
"""


def usage(file: Path, task: TaskConfig, config: RunConfig) -> str:
    """Return Python code that plays the first evaluation episode with the exported agent and prints its score."""
    seed, greedy = config.evaluation.seed, config.evaluation.actions == "greedy"
    if (minatar := minatar_game(task.game)) is not None:
        settings = task.minatar or MinatarConfig()
        return _MINATAR.format(
            file=str(file),
            module=minatar.module,
            sticky=settings.sticky_action_probability,
            ramping=settings.difficulty_ramping,
            seed=seed,
            channels=CHANNELS,
            most=config.evaluation.max_episode_steps,
            greedy=greedy,
            actions=Game(minatar, settings).action_set,
        )
    atari, rom = config.atari, rom_name(task.game)
    template = _GYMNASIUM if rom is None else _ATARI if task.flavour is None else _ATARI_MODES
    set_to = {"mode": task.mode, "difficulty": task.difficulty}
    return template.format(
        file=str(file),
        game=task.game,
        imports="".join(f"import {module}\n" for module in dict.fromkeys(w.module for w in task.wrappers)),
        wraps="".join(f"game = {_call(wrapper)}\n" for wrapper in task.wrappers),
        rom=rom,
        flavour=", ".join(f"{name}={value}" for name, value in set_to.items() if value is not None),
        size=atari.frame_size,
        stack=atari.frame_stack,
        skip=atari.frame_skip,
        sticky=atari.sticky_action_probability,
        noop=atari.noop_max,
        fire=atari.fire_on_reset,
        full=atari.full_action_space,
        most=atari.max_episode_frames,
        seed=seed,
        greedy=greedy,
    )


def _call(wrapper: WrapperConfig) -> str:
    arguments = "".join(f", {name}={value!r}" for name, value in wrapper.arguments.items())
    return f"{wrapper.module}.{wrapper.class_name}(game{arguments})"
