"""One run of the parity study: learn one game from one seed, note every game's raw return, then play whole games."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from _stock_sb3 import stock_env, stock_ppo
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from blip_rl.config import RunConfig
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.methods import make_method
from blip_rl.tasks.make import make_evaluation_env, make_training_env

EVALUATION_SEED = 2**30  # training seeds stay below
_GAMES_AT_ONCE = 32

Act = Callable[[np.ndarray], np.ndarray]
"""Observations → actions drawn from the policy."""


@dataclass(frozen=True)
class Contestant:
    """An agent in the middle of its training environments, and its own way to be scored."""

    agent: PPO
    act: Act
    evaluation_env: Callable[[int, int], VecEnv]
    """(games, seed of the first) → environments of raw rewards whose episodes are whole games."""


@contextmanager
def ours(config: RunConfig) -> Iterator[Contestant]:
    """blip-rl's agent, of one task and with the method of the recipe."""
    task, atari = config.tasks[0], config.atari
    games = config.agent.ppo.environments
    groups = config.compute.groups(config.device, games)
    env = make_training_env(task, atari, games, _training_seed(config), groups)
    with ExitStack() as stack:
        stack.callback(env.close)
        agent = ContinualPPO(
            config.agent, task.name, env, seed=config.seed, device=config.device, compute=config.compute
        )
        stack.enter_context(agent.protected_by(make_method(config.agent.method)))
        yield Contestant(
            agent,
            lambda observations: agent.policy.act(observations, greedy=False),
            lambda games, seed: make_evaluation_env(task, atari, games, seed),
        )


@contextmanager
def stock(config: RunConfig) -> Iterator[Contestant]:
    """stable-baselines3's agent, in its own wrappers."""
    env = stock_env(config, seed=_training_seed(config))
    agent = stock_ppo(config, env)
    try:
        yield Contestant(
            agent,
            lambda observations: agent.predict(observations, deterministic=False)[0],
            lambda games, seed: stock_env(config, games=games, seed=seed, training=False),
        )
    finally:
        env.close()


CONTESTANTS = {"ours": ours, "stock": stock}


class Games(BaseCallback):
    """Raw returns of all games that ended while learning, with the step count of the rollout they ended in.

    Both agents keep the last games' reports in ``ep_info_buffer``; what is taken out there cannot be counted twice.
    """

    def __init__(self, talk: Callable[[str], None]) -> None:
        super().__init__()
        self.ended: list[tuple[int, float]] = []
        self._talk, self._said = talk, 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        reports = self.model.ep_info_buffer
        assert reports is not None
        if len(reports) == reports.maxlen:
            raise RuntimeError(f"{len(reports)} games in one rollout: some may be lost; use shorter rollouts")
        self.ended += [(self.num_timesteps, float(reports.popleft()["r"])) for _ in range(len(reports))]
        if self.num_timesteps - self._said >= 50_000:
            self._said = self.num_timesteps
            last = [score for _, score in self.ended[-100:]]
            self._talk(f"{self.num_timesteps:,} steps, last {len(last)} games: {np.mean(last) if last else 0:.1f}")


def run(name: str, config: RunConfig, episodes: int, talk: Callable[[str], None]) -> dict[str, Any]:
    """Learn, then play; returns what a JSON file of the study holds of it.

    Args:
        name: Which contestant.
        config: Recipe with one task, its steps and the seed.
        episodes: Whole games to play after learning, with actions drawn from the policy.
        talk: Told now and then how far it is.
    """
    with CONTESTANTS[name](config) as contestant:
        games = Games(talk)
        wall, cpu = time.perf_counter(), time.process_time()
        contestant.agent.learn(config.tasks[0].steps, callback=games)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        steps = contestant.agent.num_timesteps
        scores = play(contestant, episodes)
    return {
        "steps": steps,
        "seconds": wall,
        "cpu_seconds": cpu,
        "steps_per_second": steps / wall,
        "training_games": games.ended,
        "evaluation_games": scores,
    }


def play(contestant: Contestant, episodes: int) -> list[float]:
    """Raw returns of whole games: game k is the first one of the environment with seed k, so short ones count once."""
    torch.manual_seed(EVALUATION_SEED)
    contestant.agent.policy.set_training_mode(False)
    scores: list[float] = []
    while len(scores) < episodes:
        count = min(_GAMES_AT_ONCE, episodes - len(scores))
        env = contestant.evaluation_env(count, EVALUATION_SEED + len(scores))
        try:
            scores += _first_games(env, contestant.act)
        finally:
            env.close()
    return scores


def _first_games(env: VecEnv, act: Act) -> list[float]:
    """The return of each environment's first game."""
    scores = [None] * env.num_envs
    observations: Any = env.reset()
    while None in scores:
        observations, _, _, infos = env.step(act(observations))
        for index, info in enumerate(infos):
            if "episode" in info and scores[index] is None:
                scores[index] = float(info["episode"]["r"])
    return scores


def _training_seed(config: RunConfig) -> int:
    """Of the first of the games; far enough apart that no two runs share one."""
    return 10_000 * config.seed
