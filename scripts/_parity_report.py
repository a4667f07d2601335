"""What the runs of the parity study say together: tables, verdicts and learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _measure import cell, markdown_table

from blip_rl.core.intervals import Estimate, describe, estimate
from blip_rl.reporting.drawing import Axes, figure
from blip_rl.reporting.style import LIGHT, add_legend, steps_axis, style_axes

LAST_GAMES = 100
LABELS = {"ours": "blip-rl", "stock": "stable-baselines3"}
_WINDOWS = 25

Runs = dict[str, dict[int, dict[str, Any]]]
"""Contestant → seed → what its run left; of one game."""

MEASURES = {
    f"training, last {LAST_GAMES} games": lambda run: _mean(_returns(run)[-LAST_GAMES:]),
    "training, all games": lambda run: _mean(_returns(run)),
    "after training, drawn actions": lambda run: _mean(run["evaluation_games"]),
}
"""Name → the number of one run; the first one decides."""


@dataclass(frozen=True)
class Comparison:
    """One measure of both contestants over the seeds that both have finished.

    Attributes:
        ours: One number a seed.
        stock: One number a seed, of the same seeds.
    """

    ours: tuple[float, ...]
    stock: tuple[float, ...]

    @property
    def paired(self) -> Estimate:
        """Ours less stock of the same seed, over the seeds."""
        return estimate([a - b for a, b in zip(self.ours, self.stock, strict=True)])

    @property
    def difference(self) -> float:
        """Centre of :attr:`paired`: below ten seeds mean of ours less mean of stock."""
        return self.paired.centre

    @property
    def spread(self) -> float | None:
        """The most that two seeds of one and the same contestant differ; None where there are no two."""
        if len(self.ours) < 2:
            return None
        return max(max(values) - min(values) for values in (self.ours, self.stock))

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the difference over seeds; None below three."""
        return self.paired.interval

    @property
    def within(self) -> bool | None:
        """Whether the contestants differ by no more than two seeds of one of them do; None: too few to say."""
        if self.spread is None or np.isnan(self.difference):
            return None
        return abs(self.difference) <= self.spread


def compare(runs: Runs) -> dict[str, Comparison]:
    """Measure → both contestants over the seeds that both have finished."""
    seeds = sorted(set(runs["ours"]) & set(runs["stock"]))
    return {
        name: Comparison(*(tuple(measure(runs[who][seed]) for seed in seeds) for who in LABELS))
        for name, measure in MEASURES.items()
        if seeds
    }


def report(games: dict[str, Runs]) -> str:
    """Tables of scores and of what the runs took, and a verdict, all from the runs' numbers."""
    compared = {game: compare(runs) for game, runs in games.items()}
    head = ["game", "mean raw return", *(f"{label}: mean ± deviation (seeds)" for label in LABELS.values())]
    head += ["difference [95 % interval]", "most that two seeds differ", "within the spread of the seeds"]
    rows = [[game, name, *_cells(values)] for game, found in compared.items() for name, values in found.items()]
    verdicts = [_verdict(game, found) for game, found in compared.items()]
    return "\n\n".join([markdown_table(head, rows), _costs(games), "\n".join(verdicts)])


def _cells(values: Comparison) -> list[str]:
    interval = values.interval
    kind = describe(len(values.ours)).partition("95 % ")[2]  # "Student interval"
    shown = "" if interval is None else f" [{interval[0]:+.1f}, {interval[1]:+.1f}] ({kind})"
    return [
        *(_sample(one) for one in (values.ours, values.stock)),
        f"{values.difference:+.1f}{shown}",
        cell(values.spread, ".1f"),
        _word(values.within),
    ]


def _sample(values: Sequence[float]) -> str:
    deviation = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{_mean(values):.1f}{deviation} ({' '.join(f'{value:.1f}' for value in values)})"


def _verdict(game: str, found: dict[str, Comparison]) -> str:
    name, values = next(iter(found.items()), ("", None))
    if values is None or values.within is None:
        return f"{game}: within the spread of the seeds: not known yet (two seeds of both with a game that ended)"
    low, high = values.interval or (np.nan, np.nan)
    holds = "too few seeds for an interval" if np.isnan(low) else f"the interval holds 0: {_word(low <= 0 <= high)}"
    return (
        f"{game}: within the spread of the seeds: {_word(values.within)} "
        f"({name}, {len(values.ours)} seeds: they differ by {abs(values.difference):.1f}, "
        f"two seeds of one of them by up to {values.spread:.1f}; {holds})"
    )


def _costs(games: dict[str, Runs]) -> str:
    """What runs took. They may have had different company on the machine: the benchmark is what compares speeds."""
    rows = [
        [
            game,
            LABELS[who],
            str(len(runs[who])),
            cell(np.median([run["steps_per_second"] for run in runs[who].values()])),
            cell(np.median([1e6 * run["cpu_seconds"] / run["steps"] for run in runs[who].values()]) / 1e3, ".2f"),
        ]
        for game, runs in games.items()
        for who in LABELS
        if runs[who]
    ]
    return markdown_table(["game", "agent", "seeds", "steps/s (median)", "CPU seconds per 1000 steps"], rows)


def draw(games: dict[str, Runs], path: Path) -> None:
    """Learning curves: for each game a panel, for each contestant its seeds faintly and their mean strongly."""
    with figure((5.2 * len(games), 3.6)) as drawn:
        for index, (game, runs) in enumerate(games.items(), start=1):
            _draw_game(style_axes(drawn.add_subplot(1, len(games), index), LIGHT), game, runs)
        drawn.savefig(path, dpi=130)


def _draw_game(ax: Axes, game: str, runs: Runs) -> None:
    for number, (who, label) in enumerate(LABELS.items()):
        colour = LIGHT.colour(number)
        curves = [curve(run) for run in runs[who].values()]
        for steps, values in curves:
            ax.plot(steps, values, color=colour, linewidth=0.8, alpha=0.4)
        if curves:
            ax.plot(*_mean_curve(curves), color=colour, linewidth=2.2, label=f"{label} ({len(curves)})")
    steps_axis(ax)
    ax.set_xlabel(f"{game}: steps")
    ax.set_ylabel("mean raw return")
    add_legend(ax, LIGHT)


def curve(run: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Ends of equal windows of steps, and the mean return of the games that ended in each; NaN where none did."""
    edges = np.linspace(0, run["steps"], _WINDOWS + 1)
    steps, returns = np.array([step for step, _ in run["training_games"]]), np.array(_returns(run))
    window = np.searchsorted(edges, steps) - 1
    means = [returns[window == index].mean() if (window == index).any() else np.nan for index in range(_WINDOWS)]
    return edges[1:], np.array(means)


def _mean_curve(curves: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The mean over runs of the same length, where every run has a game."""
    return curves[0][0], np.mean([values for _, values in curves], axis=0)


def _returns(run: dict[str, Any]) -> list[float]:
    return [score for _, score in run["training_games"]]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def _word(answer: bool | None) -> str:
    return "not known yet" if answer is None else "yes" if answer else "no"
