"""Train BLIP on two CartPoles, print its metrics and plot its scores.

python examples/train_and_plot.py --out runs/two-cartpoles
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

import blip_rl as br


def main() -> None:
    parser = argparse.ArgumentParser(description="Train BLIP on two CartPoles and plot its scores.")
    parser.add_argument("--steps", type=int, default=60_000, help="training steps of each game")
    parser.add_argument("--out", type=Path, required=True, help="new run folder")
    chosen = parser.parse_args()

    run = br.train(games=["cartpole-a", "cartpole-b"], steps=chosen.steps, out=chosen.out, progress="auto")
    print(run.metrics())

    figure, axes = plt.subplots(figsize=(7, 4))
    for task in run.config.tasks:
        points: dict[int, list[float]] = {}
        for row in run.scores:
            if row.task == task.name and row.phase != "before":
                points.setdefault(row.env_steps, []).append(row.score)
        steps = sorted(points)
        axes.plot(steps, [sum(points[step]) / len(points[step]) for step in steps], marker="o", label=task.name)
    axes.set(xlabel="training steps of the run", ylabel="mean return")
    axes.legend()
    picture = run.path / "scores.png"
    figure.savefig(picture, dpi=150)
    print(f"plot {picture}")


if __name__ == "__main__":
    main()
