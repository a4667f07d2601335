"""Measure the mean return of a uniformly random policy, ``random_score`` of a Gymnasium or MinAtar task.

Usage: ``python scripts/measure_random_scores.py CartPole-v1 MinAtar/Breakout-v0 --episodes 1000``

Episode k is played with seed ``--seed`` + k. MinAtar's games have the package's sticky actions and difficulty.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator

import gymnasium
import numpy as np

from blip_rl.errors import UserError
from blip_rl.task_schedule import MinatarConfig
from blip_rl.tasks.minatar import Game
from blip_rl.tasks.minatar_names import MinatarGame, minatar_game


def random_returns(game: str, episodes: int, seed: int) -> list[float]:
    """Play whole episodes with uniformly drawn actions.

    Raises:
        UserError: the game is misspelt MinAtar, or MinAtar is not installed.
    """
    minatar = minatar_game(game)
    return list(_gymnasium(game, episodes, seed) if minatar is None else _minatar(minatar, episodes, seed))


def _gymnasium(game: str, episodes: int, seed: int) -> Iterator[float]:
    env = gymnasium.make(game)
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
    parser.add_argument("games", nargs="+", help="Gymnasium ids, for example CartPole-v1 or MinAtar/Breakout-v0")
    parser.add_argument("--episodes", type=int, default=1000, help="default: 1000")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    chosen = parser.parse_args()
    if chosen.episodes < 2:
        parser.error(f"--episodes {chosen.episodes}: expected at least 2, to give a standard error")
    for game in chosen.games:
        try:
            returns = random_returns(game, chosen.episodes, chosen.seed)
        except UserError as error:
            print(f"measure_random_scores.py: error: {error}", file=sys.stderr)
            sys.exit(2)
        deviation, mean = statistics.stdev(returns), statistics.mean(returns)
        print(
            f"{game}: {mean:.2f} ± {deviation / len(returns) ** 0.5:.2f} (mean and standard error of {len(returns)} "
            f"episodes; standard deviation {deviation:.2f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
