"""Measure the mean return of a uniformly random policy: where ``random_score`` of a Gymnasium task comes from.

Usage: ``python scripts/measure_random_scores.py CartPole-v1 Acrobot-v1 --episodes 1000``
"""

from __future__ import annotations

import argparse
import statistics

import gymnasium


def random_returns(game: str, episodes: int, seed: int) -> list[float]:
    """Play whole episodes with uniformly drawn actions."""
    env = gymnasium.make(game)
    env.action_space.seed(seed)
    returns = []
    for episode in range(episodes):
        env.reset(seed=seed + episode)
        total, over = 0.0, False
        while not over:
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            total += float(reward)
            over = terminated or truncated
        returns.append(total)
    env.close()
    return returns


def main() -> None:
    """Print one line for each game: mean, standard error, episodes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("games", nargs="+", help="Gymnasium ids, for example CartPole-v1")
    parser.add_argument("--episodes", type=int, default=1000, help="default: 1000")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    chosen = parser.parse_args()
    if chosen.episodes < 2:
        parser.error(f"--episodes {chosen.episodes}: expected at least 2, to give a standard error")
    for game in chosen.games:
        returns = random_returns(game, chosen.episodes, chosen.seed)
        error = statistics.stdev(returns) / len(returns) ** 0.5
        mean = statistics.mean(returns)
        print(f"{game}: {mean:.2f} ± {error:.2f} (mean and standard error of {len(returns)} episodes)")


if __name__ == "__main__":
    main()
