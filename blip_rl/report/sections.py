"""The sections about scores: data from groups of runs, pictures from the album, words for both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from blip_rl.core import metrics
from blip_rl.report import bars, curves, heatmaps
from blip_rl.report.album import SMALL, WIDE, Album, Picture
from blip_rl.report.drawing import Axes, Figure
from blip_rl.report.groups import (
    VERDICT,
    Group,
    Series,
    accumulated_series,
    describe_estimates,
    describe_series,
    mean_matrix,
    return_series,
    verdict,
)
from blip_rl.report.load import Array
from blip_rl.report.load_run import RunRecord, Task
from blip_rl.report.section import Section
from blip_rl.report.style import Theme
from blip_rl.report.words import headline, listed, number, raw_number, spread


def verdict_section(groups: Sequence[Group], album: Album) -> Section:
    """ACC, BWT, accumulated reward and forgetting; the numbers themselves are tiles or a table in the page."""
    lead = "Scores are normalised: 0 plays like chance, 1 like the reference."
    pictures: list[Picture] = []
    learned = [(index, group) for index, group in enumerate(groups) if group.learned]
    if len(learned) > 1:
        found = [_verdict_picture(learned, metric, album) for metric in VERDICT]
        pictures = [picture for picture in found if picture is not None]
    return Section("verdict", "Verdict", lead, tuple(pictures), _unequal([g for _, g in learned]), "pair")


def _unequal(groups: Sequence[Group]) -> str:
    stages = {group.learned for group in groups}
    if len(stages) < 2:
        return ""
    return "Not the same number of games: " + listed([f"{g.label} after {g.learned}" for g in groups]) + "."


def _verdict_picture(learned: Sequence[tuple[int, Group]], metric: str, album: Album) -> Picture | None:
    colours, groups = [index for index, _ in learned], [group for _, group in learned]
    found = [verdict(group, metric) for group in groups]
    if not any(np.isfinite(one.centre) for one in found):  # BWT of a first game, say; the table tells why
        return None
    meaning, _, more_is_better = VERDICT[metric]

    def draw(figure: Figure, theme: Theme) -> None:
        bars.draw_estimates(figure.add_subplot(), labels, colours, found, theme)

    labels = [group.label for group in groups]
    texts = [f"{g.label} {headline(one)} ({spread(one)})" for g, one in zip(groups, found, strict=True)]
    return album.add(
        f"verdict-{metric}",
        draw,
        title=metric,
        alt=f"{metric}, {meaning}: {listed(texts)}",
        caption=(
            f"{meaning.capitalize()}; {'more' if more_is_better else 'less'} is better. "
            f"{describe_estimates(labels, found)}"
        ),
        size=(SMALL[0], 0.7 + 0.38 * len(groups)),
    )


def accumulated_section(groups: Sequence[Group], album: Album) -> Section:
    """Accumulated normalised reward against steps (BLIP Fig. 4)."""
    series = [accumulated_series(group, index) for index, group in enumerate(groups)]
    lead = (
        "At every step the sum of the latest normalised scores of all games seen so far. It climbs as games are added "
        "and falls where they are forgotten."
    )
    shown = [one for one in series if any(np.isfinite(values).any() for _, values in one.lines)]
    if not shown:
        return Section("accumulated", "Accumulated reward", lead, note="No normalised score yet.")
    clock = _furthest(groups, groups[0].first.tasks)

    def draw_chart(figure: Figure, theme: Theme) -> Axes:
        ax = curves.draw_curves(figure.add_subplot(), shown, theme, "accumulated normalised reward")
        ax.set_xlim(left=0)
        return ax

    def draw(figure: Figure, theme: Theme) -> None:
        curves.draw_spans(draw_chart(figure, theme), _spans(clock), theme)

    def draw_narrow(figure: Figure, theme: Theme) -> None:
        curves.draw_boundaries(draw_chart(figure, theme), _boundaries(clock), theme)

    alt = f"Accumulated normalised reward against steps. {_ends(shown, number)}"
    picture = album.add(
        "accumulated-reward",
        draw,
        title="",
        alt=alt,
        caption=describe_series(shown),
        size=WIDE,
        draw_narrow=draw_narrow,
    )
    return Section("accumulated", "Accumulated reward", lead, (picture,))


def _ends(series: Sequence[Series], say: object) -> str:
    """The last value of every series, as text."""
    parts = []
    for one in series:
        last = [values[np.isfinite(values)][-1] for _, values in one.lines if np.isfinite(values).any()]
        steps = max(float(at[-1]) for at, _ in one.lines)
        ends = ", ".join(say(float(value)) for value in last)  # type: ignore[operator]
        parts.append(f"{one.label}: {ends} at {steps:,.0f} steps")
    return listed(parts)


def _furthest(groups: Sequence[Group], games: Sequence[Task]) -> RunRecord:
    """The run over these games that has come furthest: its boundaries stand for all."""
    runs = [run for group in groups for run in group.runs if run.tasks == tuple(games)]
    return max(runs, key=lambda run: run.env_steps)


def _boundaries(run: RunRecord) -> list[tuple[float, str]]:
    """Where each game after the first began, and its name."""
    ends = run.boundaries
    return [(float(ends[i]), task.short) for i, task in enumerate(run.tasks) if i in ends]


def _spans(run: RunRecord) -> list[tuple[float, float, str]]:
    """(first step, last step, name) of the training of each game that has begun."""
    starts = [(0.0, run.tasks[0].short), *_boundaries(run)] if run.tasks else []
    if len(starts) == 1 and len(run.tasks) > 1 and run.complete:
        starts = [(0.0, "all games together")]
    ends = [start for start, _ in starts[1:]] + [float(run.env_steps)]
    return [(start, end, name) for (start, name), end in zip(starts, ends, strict=True) if end > start]


def games_section(groups: Sequence[Group], album: Album) -> Section:
    """Return on each game from the moment its training starts to the end of the run (BLIP Fig. 3)."""
    places = {task.name: (at, group) for group in groups for at, task in enumerate(group.first.tasks)}
    found = [_game_picture(at, _furthest(groups, group.first.tasks), groups, album) for at, group in places.values()]
    pictures = [picture for picture in found if picture is not None]
    lead = (
        "Mean raw return from the moment a game's training starts to the end of the run. Shaded: its own training. "
        "Dotted: where the next game begins."
    )
    note = _cut_off(groups) if pictures else "No score yet."
    return Section("games", "Game by game", lead, tuple(pictures), note, "pair")


def _cut_off(groups: Sequence[Group]) -> str:
    """What to mind where games were not played to their end."""
    scores = [run.scores for group in groups for run in group.runs if run.scores is not None]
    cut_off, games = sum(one.cut_off for one in scores), sum(one.games for one in scores)
    if not cut_off:
        return ""
    return (
        f"{cut_off:,} of {games:,} games were cut off before their end by evaluation.max_episode_steps, "
        "evaluation.periodic_share or atari.max_episode_frames: their returns are too low."
    )


def _game_picture(at: int, run: RunRecord, groups: Sequence[Group], album: Album) -> Picture | None:
    """Game number ``at`` (from 0) of a run's, for all groups; the boundaries are the run's."""
    task, ends = run.tasks[at], run.boundaries
    found = [return_series(group, index, task.name) for index, group in enumerate(groups)]
    series = [one for one in found if one.lines]
    if not series:
        return None
    start = 0.0 if at == 0 else float(ends.get(at, np.inf))  # without a boundary, as with games learned together, none
    end = float(ends.get(at + 1, run.env_steps))
    later = [(steps, title) for steps, title in _boundaries(run) if steps > start]

    def draw(figure: Figure, theme: Theme) -> None:
        ax = curves.draw_curves(figure.add_subplot(), series, theme, "mean return")
        if end > start:
            curves.draw_own_training(ax, start, end, theme)
            ax.set_xlim(left=min(start, ax.get_xlim()[0]))
        curves.draw_boundaries(ax, later, theme)
        for value, level in ((task.random_score, "random play"), (task.reference_score, "reference")):
            if value is not None:
                curves.draw_level(ax, value, level, theme)

    alt = f"Mean return on {task.title} against steps. {_ends(series, raw_number)}"
    return album.add(f"game-{at + 1}-{task.name}", draw, title=task.title, alt=alt, caption=describe_series(series))


def matrix_section(groups: Sequence[Group], album: Album) -> Section:
    """The score matrix, normalised and raw, of every group."""
    lead = "Row by row: after learning a game, the score on every game learned until then. Down a column: what is kept."
    pictures = [
        picture
        for group in groups
        for raw in (False, True)
        if (picture := _matrix_picture(group, raw, len(groups) > 1, album)) is not None
    ]
    return Section(
        "matrix", "Score matrix", lead, tuple(pictures), "" if pictures else "No score after a game yet.", "pair"
    )


def _matrix_picture(group: Group, raw: bool, named: bool, album: Album) -> Picture | None:
    matrix = mean_matrix(group, "after" if raw else "after_normalised")
    tasks = group.first.tasks
    rows = [row for row in range(len(matrix)) if np.isfinite(matrix[row]).any()]
    columns = [column for column in range(len(tasks)) if np.isfinite(matrix[:, column]).any()]
    if not rows:
        return None
    cells = matrix[np.ix_(rows, columns)]
    say = raw_number if raw else number
    texts = [[say(float(value)) for value in row] for row in cells]
    together = rows == [len(tasks) - 1] and len(tasks) > 1
    row_names = ["all together"] if together else [f"after {tasks[row].short}" for row in rows]
    names = [tasks[column].short for column in columns]

    def draw(figure: Figure, theme: Theme) -> None:
        heatmaps.draw_matrix(figure.add_subplot(), texts, _shades(cells, raw), row_names, names, theme)

    spoken = [
        f"{row_name}: " + ", ".join(f"{name} {text}" for name, text in zip(names, row, strict=True) if text != "–")
        for row_name, row in zip(row_names, texts, strict=True)
    ]
    kind = "raw return" if raw else "normalised"
    return album.add(
        f"matrix-{'raw' if raw else 'normalised'}-{group.label}",
        draw,
        title=f"{group.label}: {kind}" if named else kind.capitalize(),
        alt=f"Score matrix of {group.label}, {kind}. {listed(spoken)}",
        caption="Each game has its own colour scale." if raw else "Colours from 0 or less to the highest score here.",
        size=(SMALL[0], 0.9 + 0.4 * len(rows)),
    )


def _shades(cells: Array, raw: bool) -> Array:
    """0 to 1 for each cell: raw returns between their game's worst and best, normalised ones between 0 and the best."""
    known = np.isfinite(cells)
    if not raw:
        most = max(float(cells[known].max()), 1e-9)
        return np.where(known, np.clip(cells / most, 0, 1) * 0.9, np.nan)
    low = np.where(known, cells, np.inf).min(axis=0)
    high = np.where(known, cells, -np.inf).max(axis=0)
    span = np.where(high > low, high - low, 1)
    return np.where(known, 0.1 + 0.8 * (np.where(known, cells, 0) - low) / span, np.nan)


def rounding_section(groups: Sequence[Group], album: Album) -> Section:
    """Score before consolidation − score after it."""
    lead = (
        "What freezing itself cost: score before a consolidation − score after it. A point for each game, a bar for "
        "their mean."
    )
    found = [
        (
            group.label,
            metrics.rounding_loss(mean_matrix(group, "before_normalised"), mean_matrix(group, "after_normalised")),
        )
        for group in groups
    ]
    shown = [(label, losses) for label, losses in found if np.isfinite(losses).any()]
    if not shown:
        return Section("rounding", "Rounding loss", lead, note="No consolidation was scored before and after.")
    width = min(len(losses) for _, losses in shown)
    shown = [(label, losses[:width]) for label, losses in shown]
    rows = [row for row in range(width) if any(np.isfinite(losses[row]).any() for _, losses in shown)]
    names = [groups[0].first.tasks[row].short for row in rows]
    shown = [(label, losses[rows]) for label, losses in shown]
    if not any(np.nan_to_num(losses).any() for _, losses in shown):
        return Section("rounding", "Rounding loss", lead, note="None: every score was the same before and after.")

    def draw(figure: Figure, theme: Theme) -> None:
        bars.draw_rounding(figure.add_subplot(), names, shown, theme, "normalised score lost")

    spoken = [
        f"{label}: after " + ", ".join(_mean_loss(n, r) for n, r in zip(names, losses, strict=True))
        for label, losses in shown
    ]
    picture = album.add(
        "rounding-loss", draw, title="", alt=f"Rounding loss. {listed(spoken)}", size=(WIDE[0], 3.1), draw_narrow=draw
    )
    return Section("rounding", "Rounding loss", lead, (picture,))


def _mean_loss(name: str, losses: Array) -> str:
    known = losses[np.isfinite(losses)]
    return f"{name} {number(float(known.mean()), signed=True) if known.size else 'not measured'}"
