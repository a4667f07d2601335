"""Measure the mean return of a uniformly random policy, ``random_score`` of a task.

Usage: ``python scripts/measure_random_scores.py CartPole-v1 MinAtar/Breakout-v0 --episodes 1000``
or, for Atari games in the modes of a sequence, ``python scripts/measure_random_scores.py freeway-modes --episodes 100``

Episode k is played with seed ``--seed`` + k: whole games with raw rewards and, for Atari, the sequence's preprocessing.
MinAtar's games have the package's sticky actions and difficulty.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator

import gymnasium
import numpy as np

from blip_rl.config import AtariConfig
from blip_rl.errors import UserError
from blip_rl.recipes import resolve
from blip_rl.task_schedule import MinatarConfig, TaskConfig
from blip_rl.tasks.games import is_atari
from blip_rl.tasks.make import make_evaluation_env
from blip_rl.tasks.minatar import Game
from blip_rl.tasks.minatar_names import MinatarGame, minatar_game
from blip_rl.tasks.wrappers import apply_wrappers


def named_tasks(name: str) -> dict[str, tuple[TaskConfig, AtariConfig]]:
    """Return the tasks of a value of ``--games``, and the preprocessing of its Atari games.

    Raises:
        UserError: the name is none that ``--games`` accepts.
    """
    config = resolve(name, "finetune")
    return {task.name if len(config.tasks) > 1 else name: (task, config.atari) for task in config.tasks}


def random_returns(task: TaskConfig, atari: AtariConfig, episodes: int, seed: int) -> list[float]:
    """Play whole episodes with uniformly drawn actions."""
    if is_atari(task.game):
        return list(_atari(task, atari, episodes, seed))
    minatar = minatar_game(task.game)
    return list(_gymnasium(task, episodes, seed) if minatar is None else _minatar(minatar, episodes, seed))


def _atari(task: TaskConfig, atari: AtariConfig, episodes: int, seed: int) -> Iterator[float]:
    actions = np.random.default_rng(seed)
    for episode in range(episodes):
        env = make_evaluation_env(task, atari, 1, seed + episode)
        count = env.action_space.n
        env.reset()
        total, over = 0.0, False
        while not over:
            _, rewards, dones, _ = env.step(actions.integers(count, size=1))
            total += float(rewards[0])
            over = bool(dones[0])
        env.close()
        yield total


def _gymnasium(task: TaskConfig, episodes: int, seed: int) -> Iterator[float]:
    env = apply_wrappers(gymnasium.make(task.game), task.wrappers, task.game)
    env.action_space.seed(seed)
    for episode in range(episodes):
        env.reset(seed=seed + episode)
        total, over = 0.0, False
        while not over:
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            total += float(reward)
            over = terminated or truncated
        yield total
    env.close()


def _minatar(name: MinatarGame, episodes: int, seed: int) -> Iterator[float]:
    game, actions = Game(name, MinatarConfig()), np.random.default_rng(seed)
    for episode in range(episodes):
        game.seed(seed + episode)
        game.reset()
        total, over = 0.0, False
        while not over:
            reward, over = game.act(int(actions.integers(len(game.action_set))))
            total += reward
        yield total


def main() -> None:
    """Print one line for each game: mean, standard error, standard deviation, episodes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("games", nargs="+", help="values of --games, for example CartPole-v1 or freeway-modes")
    parser.add_argument("--episodes", type=int, default=1000, help="default: 1000")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    chosen = parser.parse_args()
    if chosen.episodes < 2:
        parser.error(f"--episodes {chosen.episodes}: expected at least 2, to give a standard error")
    try:
        tasks = {name: found for game in chosen.games for name, found in named_tasks(game).items()}
    except UserError as error:
        print(f"measure_random_scores.py: error: {error}", file=sys.stderr)
        sys.exit(2)
    for game, (task, atari) in tasks.items():
        returns = random_returns(task, atari, chosen.episodes, chosen.seed)
        deviation, mean = statistics.stdev(returns), statistics.mean(returns)
        print(
            f"{game}: {mean:.2f} ± {deviation / len(returns) ** 0.5:.2f} (mean and standard error of {len(returns)} "
            f"episodes; standard deviation {deviation:.2f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
