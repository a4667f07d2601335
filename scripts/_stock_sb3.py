"""Plain stable-baselines3 PPO with the network and the numbers of a recipe, as its users would write it."""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecFrameStack, VecTransposeImage
from torch import nn

from blip_rl.agent_config import ImageTrunkConfig
from blip_rl.config import RunConfig
from blip_rl.errors import UserError
from blip_rl.learner.ppo import stable_baselines_hyperparameters
from blip_rl.tasks.games import rom_name


class StockTrunk(BaseFeaturesExtractor):
    """The recipe's trunk, as a user of plain stable-baselines3 would write it."""

    def __init__(self, observation_space: Any, config: ImageTrunkConfig) -> None:
        super().__init__(observation_space, features_dim=config.hidden[-1])
        layers: list[nn.Module] = []
        for channels, kernel, stride in config.conv:
            layers += [nn.LazyConv2d(channels, kernel, stride), nn.ReLU()]
        layers.append(nn.Flatten())
        for units in config.hidden:
            layers += [nn.LazyLinear(units), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.layers(torch.zeros(1, *observation_space.shape))  # lazy layers learn their sizes

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Images, shape (batch, channels, height, width) → features, shape (batch, features_dim)."""
        return self.layers(observations)


def check_game(config: RunConfig) -> None:
    """Check that stable-baselines3's wrappers can play the recipe's first game as the recipe asks.

    Raises:
        UserError: they cannot.
    """
    game = config.tasks[0].game
    rom = rom_name(game)
    if rom is None or rom_name(stock_id(rom)) is None:
        raise UserError(f"game {game!r}: expected an Atari game that stable-baselines3 can play too, such as boxing")
    if not config.atari.fire_on_reset:
        raise UserError("atari.fire_on_reset = false: expected true, because stable-baselines3 always presses fire")


def stock_id(rom: str) -> str:
    """The Gymnasium id that AtariWrapper asks for; the prefix registers it, also in worker processes."""
    return f"ale_py:{rom.title().replace('_', '')}NoFrameskip-v4"


def stock_env(
    config: RunConfig,
    vec_env: type[DummyVecEnv] | type[SubprocVecEnv] = DummyVecEnv,
    *,
    games: int = 0,
    seed: int = 0,
    training: bool = True,
) -> VecEnv:
    """The recipe's first game in stable-baselines3's own wrappers.

    Args:
        config: The game and its preprocessing.
        vec_env: How copies are stepped.
        games: How many copies; 0: as many as the recipe learns with.
        seed: Of the first copy; the others follow it.
        training: Whether rewards are signs and lost lives end episodes; otherwise raw rewards of whole games.
    """
    rom, atari = rom_name(config.tasks[0].game), config.atari
    assert rom is not None
    wrapper = {
        "noop_max": atari.noop_max,
        "frame_skip": atari.frame_skip,
        "screen_size": atari.frame_size,
        "terminal_on_life_loss": training and atari.lost_life_ends_episode,
        "clip_reward": training and atari.clip_rewards,
        "action_repeat_probability": atari.sticky_action_probability,
    }
    emulator = {"full_action_space": atari.full_action_space, "max_num_frames_per_episode": atari.max_episode_frames}
    copies = games or config.agent.ppo.environments
    env = make_atari_env(
        stock_id(rom), copies, seed=seed, vec_env_cls=vec_env, wrapper_kwargs=wrapper, env_kwargs=emulator
    )
    return VecTransposeImage(VecFrameStack(env, atari.frame_stack))


def stock_ppo(config: RunConfig, env: VecEnv) -> PPO:
    """Plain PPO over any environments, with the recipe's layers, numbers and seed."""
    ppo = config.agent.ppo
    policy = {
        "features_extractor_class": StockTrunk,
        "features_extractor_kwargs": {"config": config.agent.trunk.image},
        "net_arch": [],  # unless told, stable-baselines3 puts two layers of 64 behind a custom extractor
        "optimizer_kwargs": {"eps": ppo.adam_epsilon},
    }
    return PPO(
        "CnnPolicy",
        env,
        policy_kwargs=policy,
        seed=config.seed,
        device=config.device,
        **stable_baselines_hyperparameters(ppo),
    )


def work_of(agent: PPO) -> str:
    """What an agent has to do, in words: equal for two agents that do the same work."""
    numbers = ("n_envs", "n_steps", "batch_size", "n_epochs", "gamma", "gae_lambda", "ent_coef", "vf_coef")
    values = {name: getattr(agent, name) for name in (*numbers, "max_grad_norm", "action_space")}
    schedules = {name: (schedule(1.0), schedule(0.5)) for name, schedule in _schedules(agent).items()}
    layers = [tuple(parameter.shape) for parameter in agent.policy.features_extractor.parameters()]
    heads = [agent.policy.action_net, agent.policy.value_net]
    return f"{values} {schedules} {agent.observation_space.shape} {layers} {heads}"


def _schedules(agent: PPO) -> dict[str, Any]:
    schedules = {"learning_rate": agent.lr_schedule, "clip_range": agent.clip_range}
    return schedules | ({} if agent.clip_range_vf is None else {"clip_range_vf": agent.clip_range_vf})
