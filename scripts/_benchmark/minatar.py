"""How fast MinAtar is played and learned, against a Gymnasium environment for each copy of a game."""

from __future__ import annotations

import argparse
import statistics
import sys
from typing import Any

import gymnasium
import numpy as np
from _measure import cell, cpu_seconds, markdown_table, positive_int
from gymnasium.spaces import Box
from gymnasium.wrappers import TransformObservation
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from _benchmark.contestants import Contestant
from blip_rl.errors import UserError
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.recipes import resolve
from blip_rl.task_schedule import TaskConfig
from blip_rl.tasks.make import make_training_env
from blip_rl.tasks.minatar import CHANNELS, SIZE
from blip_rl.tasks.minatar_names import minatar_game

PLAIN, OURS = "Gymnasium", "blip-rl"


def add_options(parser: argparse.ArgumentParser) -> None:
    """What else this verb can be asked."""
    parser.add_argument("--sequence", default="minatar5", help="its games are measured (%(default)s)")
    parser.add_argument("--steps", type=positive_int, default=20_000, help="steps timed at once (%(default)s)")


def check(options: argparse.Namespace) -> None:
    """Find mistakes before anything is built.

    Raises:
        UserError: the sequence cannot be had, or has other games.
    """
    for task in resolve(options.sequence, "finetune", overrides=options.set).tasks:
        if minatar_game(task.game) is None:
            raise UserError(f"--sequence {options.sequence}: {task.game} is not a game of MinAtar")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Play and learn each game both ways, in turn."""
    tasks = resolve(options.sequence, "finetune", overrides=options.set).tasks
    return {"games": {task.name: _game(task, options) for task in tasks}}


def _game(task: TaskConfig, options: argparse.Namespace) -> dict[str, Any]:
    config = resolve(task.name, "finetune", device=options.device, overrides=options.set)
    copies = config.agent.ppo.environments
    envs = {PLAIN: plain_env(task, copies), OURS: make_training_env(task, config.atari, copies, 0)}
    agents = {
        name: Contestant(ContinualPPO(config.agent, task.name, env, seed=0, device=options.device))
        for name, env in envs.items()
    }
    updates = max(1, options.steps // (copies * config.agent.ppo.rollout_steps))
    played: dict[str, list[float]] = {name: [] for name in envs}
    learned: dict[str, list[float]] = {name: [] for name in envs}
    for agent in agents.values():
        agent.learn(1)
    for turn in range(options.repeats):
        for name in list(envs)[:: 1 if turn % 2 else -1]:
            lap = agents[name].learn(updates)
            learned[name].append(lap.steps / lap.cpu_seconds)
            played[name].append(_play(envs[name], options.steps // copies))
    print(f"{task.name}: {statistics.median(learned[OURS]):.0f} steps per CPU second", file=sys.stderr)
    for env in envs.values():
        env.close()
    return {"played": played, "learned": learned}


def plain_env(task: TaskConfig, copies: int) -> VecEnv:
    """The package's own environments, one after another, as stable-baselines3 wraps any others."""
    from minatar.gym import register_envs

    game = minatar_game(task.game)
    assert game is not None
    latest, minimal = game.id.replace("-v0", "-v1"), game.minimal_actions  # Gymnasium warns of ids before the latest
    if latest not in gymnasium.registry:
        register_envs()
    space = Box(0, 255, (CHANNELS, SIZE, SIZE), np.uint8)

    def padded(planes: np.ndarray) -> np.ndarray:
        image = np.zeros(space.shape, np.uint8)
        image[: planes.shape[2]] = planes.transpose(2, 0, 1) * np.uint8(255)
        return image

    def make() -> Monitor:
        return Monitor(TransformObservation(gymnasium.make(latest, use_minimal_action_set=minimal), padded, space))

    return DummyVecEnv([make] * copies)


def _play(env: VecEnv, steps: int) -> float:
    """Steps per CPU second with random actions."""
    actions = np.random.default_rng(0).integers(env.action_space.n, size=(steps, env.num_envs))
    env.reset()
    begun = cpu_seconds()
    for chosen in actions:
        env.step(chosen)
    return actions.size / (cpu_seconds() - begun)


def report(results: dict[str, Any]) -> str:
    """One row for each game: medians, and ratios round by round."""
    head = ["game", "environments alone: Gymnasium", "blip-rl", "ratio", "learning: Gymnasium", "blip-rl", "ratio"]
    rows = [
        [name, *(text for kind in ("played", "learned") for text in _cells(found[kind]))]
        for name, found in results["games"].items()
    ]
    return f"Steps per CPU second, medians.\n\n{markdown_table(head, rows)}"


def _cells(found: dict[str, list[float]]) -> list[str]:
    ratio = statistics.median(ours / plain for ours, plain in zip(found[OURS], found[PLAIN], strict=True))
    return [cell(statistics.median(found[PLAIN])), cell(statistics.median(found[OURS])), cell(ratio, ".2f")]
