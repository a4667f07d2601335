"""Sections about scores: summary metrics, accumulated reward, and return on each game."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from blip_rl.core.intervals import Estimate
from blip_rl.reporting import bars, curves
from blip_rl.reporting.chart_data import ChartData, estimate_rows, series_data, training_rows
from blip_rl.reporting.drawing import Axes, Figure
from blip_rl.reporting.figures import LEGEND_ROW_INCHES, SMALL, WIDE, FigureWriter, PageFigure
from blip_rl.reporting.groups import (
    Group,
    Series,
    accumulated_series,
    describe_estimates,
    describe_series,
    return_series,
    training_lines,
)
from blip_rl.reporting.run_record import RunRecord
from blip_rl.reporting.section import Section
from blip_rl.reporting.style import Theme
from blip_rl.reporting.summary_metrics import SUMMARY_METRICS, metric_estimate, shown_metrics, worst_estimate
from blip_rl.reporting.task import Task
from blip_rl.reporting.text import headline, listed, number, played, spread, unit, worst_text

_MOST_NAMES = 7  # above the axis of a small figure
_NAMES_INCHES = 0.5  # of sloping names above an axis
_AT_ONE = "Dotted line at 1: the reference score on one game."


def summary_section(groups: Sequence[Group], writer: FigureWriter) -> Section:
    """ACC, BWT, accumulated reward and forgetting. The template shows the numbers as tiles or as a table."""
    lead = "Metrics of normalised scores. The normalisation is given at the top of the page."
    figures: list[PageFigure] = []
    learned = [(index, group) for index, group in enumerate(groups) if group.learned]
    if len(learned) > 1:
        found = [_summary_figure(learned, metric, writer) for metric in shown_metrics(groups)]
        figures = [page_figure for page_figure in found if page_figure is not None]
    return Section("summary", "Summary metrics", lead, tuple(figures), _unequal([g for _, g in learned]), "pair")


def _unequal(groups: Sequence[Group]) -> str:
    """Return what makes a comparison of these groups unfair; empty if nothing does."""
    notes = []
    if len({group.learned for group in groups}) > 1:
        learned = listed([f"{group.label} after {group.learned}" for group in groups])
        notes.append(f"Different numbers of {unit(groups[0].first)}s learned: {learned}.")
    if len({run.scores.actions for group in groups for run in group.runs if run.scores and run.scores.episodes}) > 1:
        actions = listed([f"{group.label} {played(group.runs)}" for group in groups])
        notes.append(f"Different action selection in evaluations: {actions}.")
    return " ".join(notes)


def _summary_figure(learned: Sequence[tuple[int, Group]], metric: str, writer: FigureWriter) -> PageFigure | None:
    colours, groups = [index for index, _ in learned], [group for _, group in learned]
    found = [metric_estimate(group, metric) for group in groups]
    if not any(np.isfinite(one.centre) for one in found):  # for example BWT after one game; the table gives the reason
        return None
    about, labels = SUMMARY_METRICS[metric], [group.label for group in groups]
    worst = [one for group in groups if (one := worst_estimate(group, metric)) is not None]

    def draw(figure: Figure, theme: Theme) -> None:
        ax = figure.add_subplot()
        bars.draw_estimates(ax, labels, colours, found, theme, is_score=about.is_score, worst=worst)

    texts = [
        f"{group.label} {headline(one)} ({', '.join(filter(None, (spread(one), worst_text(group, metric))))})"
        for group, one in zip(groups, found, strict=True)
    ]
    return writer.add(
        f"verdict-{metric}",
        draw,
        title=metric,
        alt=f"{metric}, {about.meaning}: {listed(texts)}",
        data=_estimates_data(labels, found, worst),
        caption=(
            f"{about.meaning[0].upper()}{about.meaning[1:]}; {'higher' if about.higher_is_better else 'lower'} is "
            f"better. {'Open triangles: worst game. ' if worst else ''}{describe_estimates(labels, found)}"
        ),
        size=(SMALL[0], 0.7 + 0.38 * len(groups)),
    )


def _estimates_data(labels: Sequence[str], found: Sequence[Estimate], worst: Sequence[Estimate]) -> ChartData:
    rows = [row for label, one in zip(labels, found, strict=True) for row in estimate_rows(label, one)]
    for label, one in zip(labels if worst else (), worst, strict=True):
        rows += estimate_rows(label, one, "worst game")
    return ChartData(("agent", "kind", "value", "low", "high"), tuple(rows))


def accumulated_section(groups: Sequence[Group], writer: FigureWriter) -> Section:
    """Accumulated normalised reward against steps (BLIP Fig. 4)."""
    series = [accumulated_series(group, index) for index, group in enumerate(groups)]
    lead = (
        "Sum of the latest normalised scores of all games trained so far, at each evaluation. It rises as games are "
        "learned and falls as they are forgotten or when a new game starts below random play."
    )
    shown = [one for one in series if any(np.isfinite(values).any() for _, values in (*one.lines, *one.partial))]
    if not shown:
        return Section("accumulated", "Accumulated reward", lead, note="No normalised score yet.")
    longest = _most_trained(groups, groups[0].first.tasks)

    def draw_chart(figure: Figure, theme: Theme) -> Axes:
        ax = curves.draw_curves(figure.add_subplot(), shown, theme, "accumulated normalised reward")
        curves.draw_from_zero(ax, theme)
        # At least to the end of the run: the names of the games above the axis would be far outside of it otherwise.
        ax.set_xlim(0, max(ax.get_xlim()[1], longest.env_steps))
        return ax

    def draw(figure: Figure, theme: Theme) -> None:
        curves.draw_spans(draw_chart(figure, theme), _spans(longest), theme)

    def draw_narrow(figure: Figure, theme: Theme) -> None:
        curves.draw_boundaries(draw_chart(figure, theme), _boundaries(longest), theme)

    alt = f"Accumulated normalised reward against steps. {_ends(shown, number)}"
    caption = " ".join(part for part in (_AT_ONE, describe_series(shown), _partial_note(shown)) if part)
    page_figure = writer.add(
        "accumulated-reward",
        draw,
        title="",
        alt=alt,
        data=series_data(shown, "accumulated reward"),
        caption=caption,
        size=WIDE,
        draw_narrow=draw_narrow,
    )
    return Section("accumulated", "Accumulated reward", lead, (page_figure,))


def _partial_note(series: Sequence[Series]) -> str:
    if not any(len(steps) for one in series for steps, _ in one.partial):
        return ""
    return (
        "Open markers: evaluations with fewer episodes than evaluation.episodes. They may differ from the line without "
        "any learning or forgetting."
    )


def _ends(series: Sequence[Series], format_value: Callable[[float], str]) -> str:
    """Describe the last value of every series."""
    parts = []
    for one in series:
        lines = [line for line in one.lines or one.partial if len(line[0])]
        last = [values[np.isfinite(values)][-1] for _, values in lines if np.isfinite(values).any()]
        steps = max(float(at[-1]) for at, _ in lines)
        ends = ", ".join(format_value(float(value)) for value in last)
        parts.append(f"{one.label}: {ends} at {steps:,.0f} steps")
    return listed(parts)


def _most_trained(groups: Sequence[Group], games: Sequence[Task]) -> RunRecord:
    """Return the run over these games with the most steps, whose task boundaries are drawn."""
    runs = [run for group in groups for run in group.runs if run.tasks == tuple(games)]
    return max(runs, key=lambda run: run.env_steps)


def _boundaries(run: RunRecord) -> list[tuple[float, str]]:
    """Return (first step, short title) of each stage after the first that has started."""
    return [
        (float(end), run.short_title(stage + 1)) for stage, end in sorted(run.boundaries.items()) if stage < run.stages
    ]


def _spans(run: RunRecord) -> list[tuple[float, float, str]]:
    """Return (first step, last step, short title) of each stage that has started."""
    starts = [(0.0, run.short_title(1)), *_boundaries(run)] if run.tasks else []
    if run.learned_together:
        starts = [(0.0, "all games together")]
    ends = [start for start, _ in starts[1:]] + [float(run.env_steps)]
    return [(start, end, name) for (start, name), end in zip(starts, ends, strict=True) if end > start]


def games_section(groups: Sequence[Group], writer: FigureWriter) -> Section:
    """Mean return on each game from the start of its training to the end of the run (BLIP Fig. 3)."""
    first_in = {task.name: (at, group) for group in groups for at, task in enumerate(group.first.tasks)}
    found = [
        _game_figure(at, _most_trained(groups, group.first.tasks), groups, writer) for at, group in first_in.values()
    ]
    figures = [page_figure for page_figure in found if page_figure is not None]
    lead = (
        "Mean raw return from the start of a game's training to the end of the run. Markers: evaluations. Thin lines: "
        "training episodes (sampled actions). Shaded: training on this game. Dotted: start of the next game."
    )
    if any(group.first.comes_back for group in groups):
        lead += " A number after a game: which visit to it."
    note = _truncated_note(groups) if figures else "No score yet."
    return Section("games", "Return on each game", lead, tuple(figures), note, "pair")


def _truncated_note(groups: Sequence[Group]) -> str:
    """Warn about truncated episodes; empty if there are none."""
    scores = [run.scores for group in groups for run in group.runs if run.scores is not None]
    truncated, episodes = sum(one.truncated for one in scores), sum(one.episodes for one in scores)
    if not truncated:
        return ""
    return (
        f"{truncated:,} of {episodes:,} episodes were truncated by evaluation.max_episode_steps, "
        "evaluation.periodic_share or atari.max_episode_frames: their returns are too low."
    )


def _own_training(at: int, run: RunRecord) -> list[tuple[float, float]]:
    """Return (first step, last step) of each visit to game ``at`` (0-based); none if games are learned together."""
    if run.learned_together:
        return []
    found = []
    for stage in (one for one, task in enumerate(run.visits, start=1) if task == at):
        start = 0.0 if stage == 1 else float(run.boundaries.get(stage - 1, np.inf))
        end = float(run.boundaries.get(stage, run.env_steps))
        if end > start:
            found.append((start, end))
    return found


def _game_figure(at: int, run: RunRecord, groups: Sequence[Group], writer: FigureWriter) -> PageFigure | None:
    """Draw the returns of all groups on game ``at`` (0-based) of ``run``, with the task boundaries of ``run``."""
    task = run.tasks[at]
    found = [return_series(group, index, task.name) for index, group in enumerate(groups)]
    series = [one for one in found if one.lines]
    if not series:
        return None
    own = _own_training(at, run)
    later = [(steps, title) for steps, title in _boundaries(run) if own and steps > own[0][0]]
    crowded = len(later) > _MOST_NAMES  # names the visits to this game alone
    if crowded:
        later = [(steps, "") for steps, _ in later]

    def draw(figure: Figure, theme: Theme) -> None:
        ax = figure.add_subplot()
        for index, group in enumerate(groups):
            curves.draw_training(ax, training_lines(group, task.name), index, theme)
        curves.draw_curves(ax, series, theme, "mean return")
        for visit, (start, end) in enumerate(own, start=1):
            name = f"visit {visit}" if crowded and len(own) <= _MOST_NAMES else ""
            curves.draw_own_training(ax, start, end, theme, name)
        if own:
            ax.set_xlim(left=min(own[0][0], ax.get_xlim()[0]))
        curves.draw_boundaries(ax, later, theme)
        for value, level in ((task.random_score, "random play"), (task.reference_score, "reference")):
            if value is not None:
                curves.draw_level(ax, value, level, theme)

    alt = f"Mean return on {task.title} against steps. {_ends(series, number)}"
    training = [row for group in groups for row in training_rows(group, task.name)]
    data = series_data(series, "mean return", training)
    name, caption = f"game-{at + 1}-{task.name}", describe_series(series)
    # Names above the axis and the legend must not take their room from the curves.
    above = LEGEND_ROW_INCHES * len(series) + (_NAMES_INCHES if any(title for _, title in later) else 0.0)
    size = (SMALL[0], SMALL[1] + above)
    return writer.add(name, draw, title=task.title, alt=alt, data=data, caption=caption, size=size)
