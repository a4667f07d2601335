"""Section that compares agents over runs and games without averaging their scores (Agarwal et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from blip_rl.core import comparison
from blip_rl.core.intervals import FEWEST_RUNS, FEWEST_RUNS_FOR_BOOTSTRAP, Estimate
from blip_rl.reporting import bars, profiles
from blip_rl.reporting.chart_data import Cell, ChartData
from blip_rl.reporting.drawing import Figure
from blip_rl.reporting.figures import SMALL, FigureWriter, PageFigure
from blip_rl.reporting.groups import Group
from blip_rl.reporting.profiles import Profile
from blip_rl.reporting.scores import Array, is_normalised
from blip_rl.reporting.section import Section
from blip_rl.reporting.style import Theme
from blip_rl.reporting.text import listed, number

_MOST_PAIRS = 10
_THRESHOLDS = 101


@dataclass(frozen=True)
class _Agent:
    """Final normalised scores of a group: (runs, games)."""

    label: str
    index: int
    scores: Array


def comparison_section(groups: Sequence[Group], writer: FigureWriter) -> list[Section]:
    """Performance profiles, and the probability that one agent is better; none where there are too few runs."""
    agents, games = _agents(groups)
    if not agents:
        return []
    many = any(len(agent.scores) >= FEWEST_RUNS_FOR_BOOTSTRAP for agent in agents)
    intervals = "95 % bootstrap intervals, of agents with" if many else "Intervals need"
    lead = (
        f"Final normalised scores of all runs and games, of agents with at least {FEWEST_RUNS} runs that have learned "
        f"every game (Agarwal et al. 2021, arXiv 2108.13264). {intervals} {FEWEST_RUNS_FOR_BOOTSTRAP} runs."
    )
    figures = [_profile_figure(agents, writer)]
    pairs = list(combinations(agents, 2))
    note = ""
    if len(pairs) > _MOST_PAIRS:
        pairs, note = pairs[: len(agents) - 1], f"Compared with {agents[0].label} only: there are {len(pairs)} pairs."
    if pairs:
        figures.append(_improvement_figure(pairs, games, writer))
    return [Section("comparison", "Comparison over runs", lead, tuple(figures), note, "pair")]


def _agents(groups: Sequence[Group]) -> tuple[list[_Agent], list[str]]:
    """Return the agents with enough finished runs, and the titles of the normalised games."""
    enough = [(at, group) for at, group in enumerate(groups) if _finished(group)]
    if not enough:
        return [], []
    tasks = enough[0][1].first.tasks
    runs = [run.scores for _, group in enough for run in group.runs if run.scores is not None]
    games = [at for at in range(len(tasks)) if all(is_normalised(scores, at) for scores in runs)]
    agents = []
    for at, group in enough:
        final = [run.scores.after_normalised[-1, games] for run in group.runs if run.scores is not None]
        scores = np.array(final)
        if games and np.isfinite(scores).all():
            agents.append(_Agent(group.label, at, scores))
    return agents, [tasks[at].title for at in games]


def _finished(group: Group) -> bool:
    runs = group.runs
    return len(runs) >= FEWEST_RUNS and all(run.scores is not None and run.learned == run.stages for run in runs)


def _profile_figure(agents: Sequence[_Agent], writer: FigureWriter) -> PageFigure:
    low = min(0.0, *(float(agent.scores.min()) for agent in agents))
    high = max(1.0, *(float(agent.scores.max()) for agent in agents))
    thresholds = np.linspace(low, high, _THRESHOLDS)
    found = [_profile(agent, thresholds) for agent in agents]

    def draw(figure: Figure, theme: Theme) -> None:
        profiles.draw_profiles(figure.add_subplot(), thresholds, found, theme)

    halves = [f"{agent.label} {comparison.performance_profile(agent.scores, [0.5])[0]:.0%}" for agent in agents]
    names = [part for one in found for part in (one.label, f"{one.label}, low", f"{one.label}, high")]
    columns = [part for one in found for part in (one.share, one.low, one.high)]
    kept = [at for at, column in enumerate(columns) if column.size]
    data = [thresholds, *(columns[at] for at in kept)]
    return writer.add(
        "performance-profile",
        draw,
        title="Performance profile",
        alt=f"Share of runs and games with a final normalised score above each value; above 0.5: {listed(halves)}",
        data=ChartData(
            ("score", *(names[at] for at in kept)), tuple(zip(*(one.tolist() for one in data), strict=True))
        ),
        caption="Share of runs and games with a final normalised score above that on the x-axis. Higher is better.",
    )


def _profile(agent: _Agent, thresholds: Array) -> Profile:
    share = comparison.performance_profile(agent.scores, thresholds)
    none = np.empty(0)
    low, high = comparison.performance_profile_interval(agent.scores, thresholds) or (none, none)
    return Profile(agent.label, agent.index, share, low, high)


def _improvement_figure(
    pairs: Sequence[tuple[_Agent, _Agent]], games: Sequence[str], writer: FigureWriter
) -> PageFigure:
    labels = [f"{first.label} > {second.label}" for first, second in pairs]
    found, worst = [], []
    rows: list[tuple[Cell, ...]] = []
    for first, second in pairs:
        by_game = comparison.improvement_by_task(first.scores, second.scores)
        mean = float(by_game.mean())
        interval = comparison.probability_of_improvement_interval(first.scores, second.scores)
        found.append(Estimate((mean,), mean, interval))
        worst.append(Estimate((float(by_game.min()),), float(by_game.min()), None))
        rows.append((first.label, second.label, mean, *(interval or (None, None)), *by_game.tolist()))

    def draw(figure: Figure, theme: Theme) -> None:
        ax = figure.add_subplot()
        bars.draw_estimates(
            ax,
            [label.replace(" > ", "\n> ") for label in labels],
            [first.index for first, _ in pairs],
            found,
            theme,
            worst=worst,
        )
        profiles.mark_even_odds(ax, theme)

    texts = [
        f"{label} {number(one.centre)} (worst game {number(low.centre)})"
        for label, one, low in zip(labels, found, worst, strict=True)
    ]
    return writer.add(
        "probability-of-improvement",
        draw,
        title="Probability of improvement",
        alt=f"Probability that a run of the first agent scores higher than one of the second: {listed(texts)}",
        data=ChartData(("agent", "better than", "probability", "low", "high", *games), tuple(rows)),
        caption=(
            "Probability that a run of the first agent scores higher on a game than one of the second, mean over the "
            "games; ½ for equal agents (dotted). Open triangles: the game with the lowest probability."
        ),
        size=(SMALL[0], 1.0 + 0.5 * len(pairs)),
    )
