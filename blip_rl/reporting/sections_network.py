"""Sections about frozen bits, plasticity and videos."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import permutations, product
from pathlib import Path
from urllib.parse import quote

import numpy as np

from blip_rl.records import PlasticityRow
from blip_rl.reporting import bars, heatmaps
from blip_rl.reporting.bits import BitBudget, BitMap, load_bit_maps
from blip_rl.reporting.chart_data import ChartData
from blip_rl.reporting.drawing import Figure
from blip_rl.reporting.figures import SMALL, FigureWriter, PageFigure, data_uri
from blip_rl.reporting.groups import Group, Series, over_seeds
from blip_rl.reporting.run_record import RunRecord
from blip_rl.reporting.section import Gif, MapCell, MapGroup, Section
from blip_rl.reporting.series_figure import series_figure
from blip_rl.reporting.style import Theme
from blip_rl.reporting.table import PLASTICITY, Array
from blip_rl.reporting.text import listed, unit

_INLINE_GIF_BYTES = 4_000_000
_ENLARGED_BELOW = 200
_PHASES = {"start": 0, "periodic": 0, "before": 1, "after": 2}
"""Order of measurements at the same step."""


def bits_section(groups: Sequence[Group], writer: FigureWriter, problems: list[str]) -> Section:
    """Heatmaps of frozen bits for each layer and task (BLIP Fig. 2), and their mean per layer."""
    lead = (
        "Frozen bits of every weight after each game, on a common scale. Rows: output units. Columns: weights of a "
        "unit. Weights without information have zero Fisher information in that game."
    )
    maps: list[MapGroup] = []
    figures: list[PageFigure] = []
    for group in groups:
        run = group.first
        if run.budget is not None:
            figures.append(_budget_figure(group, run.budget, len(groups) > 1, writer))
        if found := load_bit_maps(run.path, problems):
            maps.append(_map_group(group, found, writer))
    if not maps and not figures:
        return Section(
            "bits",
            "Frozen bits",
            lead,
            note="No frozen bits recorded: the method freezes none, or no game has been consolidated yet.",
        )
    several = any(len(group.runs) > 1 for group in groups)
    notes = ["Shown for the lowest seed of each agent that freezes bits."] if several else []
    notes += [_prior_note(group, len(groups) > 1) for group in groups]
    return Section("bits", "Frozen bits", lead, tuple(figures), " ".join(filter(None, notes)), "pair", tuple(maps))


def _prior_note(group: Group, named: bool) -> str:
    """Describe the effect of the Fisher prior on the first task; empty if not recorded."""
    first = group.first.information.first_task
    if first is None:
        return ""
    who = f"{group.label}: the" if named else "The"
    return (
        f"{who} Fisher prior {first.prior:.3g} froze on average {first.informed_bits:.2f} bits of the weights with "
        f"information in the first game and {first.bits:.2f} bits of all weights. Inside the intervals the policy can "
        f"diverge by {first.drift:.3g} nats (second order)."
    )


def _map_group(group: Group, found: Sequence[BitMap], writer: FigureWriter) -> MapGroup:
    run = group.first
    layers = list(dict.fromkeys(one.layer for one in found))
    stages = sorted({one.stage for one in found})
    names = [f"after {run.stage_title(stage)}" for stage in stages]
    rows = []
    for layer in layers:
        own = {one.stage: one for one in found if one.layer == layer}
        small = {stage: heatmaps.block_mean(one.frozen_bits) for stage, one in own.items()}
        cells = tuple(_cell(own[s], small[s], run, group.label) if s in own else None for s in stages)
        units, weights = next(iter(own.values())).frozen_bits.shape
        rows.append((layer, f"{units:,} × {weights:,}", cells))
        _save_layer(group, layer, small, writer)
    data = writer.save_data(f"frozen-bits-{group.label}", _map_data(run, found))
    return MapGroup(group.label, tuple(names), tuple(rows), run.total_bits, data)


def _map_data(run: RunRecord, found: Sequence[BitMap]) -> ChartData:
    columns = (
        "layer",
        "after",
        "mean frozen bits",
        "least",
        "most",
        "share with frozen bits",
        "share without information",
    )
    rows = [
        (
            one.layer,
            run.stage_title(one.stage),
            float(one.frozen_bits.mean()),
            int(one.frozen_bits.min()),
            int(one.frozen_bits.max()),
            float((one.frozen_bits > 0).mean()),
            run.information.shares.get(one.stage, {}).get(one.layer),
        )
        for one in found
    ]
    return ChartData(columns, tuple(rows))


def _cell(one: BitMap, small: np.ndarray, run: RunRecord, label: str) -> MapCell:
    bits = one.frozen_bits
    mean, share = float(bits.mean()), float((bits > 0).mean())
    uninformed = run.information.shares.get(one.stage, {}).get(one.layer)
    below = (f"mean {mean:.1f}", *(() if uninformed is None else (f"{uninformed:.0%} without information",)))
    alt = (
        f"Frozen bits of {one.layer} after {run.stage_title(one.stage)}, {label}: mean {mean:.2f} of {run.total_bits}, "
        f"from {int(bits.min())} to {int(bits.max())}, {share:.0%} of the weights have any"
    )
    alt += "" if uninformed is None else f", {uninformed:.0%} have no information"
    source = data_uri("image/png", heatmaps.bits_png(small, run.total_bits))
    return MapCell(source, below, alt, small.shape[1] < _ENLARGED_BELOW)


def _save_layer(group: Group, layer: str, maps: dict[int, np.ndarray], writer: FigureWriter) -> None:
    run = group.first

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots(1, len(maps), squeeze=False)[0]
        names = [f"{layer} after {run.stage_title(stage)}" for stage in maps]
        heatmaps.draw_layer(list(axes), list(maps.values()), run.total_bits, names, theme)

    writer.save(f"bits-{layer}-{group.label}", draw, (1.4 + 2.2 * len(maps), 2.6))


def _budget_figure(group: Group, budget: BitBudget, named: bool, writer: FigureWriter) -> PageFigure:
    run = group.first
    layers = [*budget.layers, "all weights"]
    frozen = np.column_stack([budget.mean_frozen, budget.overall()])
    names = [run.stage_title(stage) for stage in budget.stages]

    def draw(figure: Figure, theme: Theme) -> None:
        bars.draw_budget(figure.add_subplot(), layers, frozen, run.total_bits, names, theme)

    rows_text = [
        f"after {name}: " + ", ".join(f"{layer} {value:.2f}" for layer, value in zip(layers, row, strict=True))
        for name, row in zip(names, frozen, strict=True)
    ]
    return writer.add(
        f"bit-budget-{group.label}",
        draw,
        title=f"{group.label}: bit budget" if named else "Bit budget",
        alt=f"Mean frozen bits of {run.total_bits} in each layer. {listed(rows_text)}",
        data=ChartData(
            ("after", *layers), tuple((name, *row) for name, row in zip(names, frozen.tolist(), strict=True))
        ),
        caption=f"Bits frozen by each {unit(run)} and free bits, mean over the weights of a layer.",
        size=(SMALL[0], 1.3 + 0.38 * len(layers)),
    )


def plasticity_section(groups: Sequence[Group], writer: FigureWriter) -> Section:
    """Dormant units, effective rank, gradient norm and free bits against steps."""
    lead = (
        "Measures of the network's ability to learn, at each evaluation on a fixed batch of states of the current "
        "game. Vertical steps: values before and after a consolidation."
    )
    having = [group for group in groups if any(run.plasticity for run in group.runs)]
    if not having:
        return Section("plasticity", "Plasticity", lead, note="Not recorded in this run: it has no plasticity.csv.")
    found = [_plasticity_figure(column, title, having, groups, writer) for column, title in PLASTICITY.items()]
    figures = tuple(page_figure for page_figure in found if page_figure is not None)
    note = "Mean over the layers." if len(groups) > 1 else ""
    return Section("plasticity", "Plasticity", lead, figures, note, "pair")


def _plasticity_figure(
    column: str, title: str, having: Sequence[Group], groups: Sequence[Group], writer: FigureWriter
) -> PageFigure | None:
    if len(groups) == 1 and len(having[0].runs) == 1:
        series = _layer_series(having[0].first.plasticity, column)
    else:
        series = [
            over_seeds(group.label, index, [_by_evaluation(r.plasticity, column) for r in group.runs if r.plasticity])
            for index, group in enumerate(groups)
        ]
    series = [one for one in series if any(np.isfinite(values).any() for _, values in one.lines)]
    return series_figure(f"plasticity-{column}", title, series, writer) if series else None


def _layer_series(rows: Sequence[PlasticityRow], column: str) -> list[Series]:
    layers = dict.fromkeys(row.layer for row in rows)
    return [
        over_seeds(layer, index, [_by_evaluation([row for row in rows if row.layer == layer], column)])
        for index, layer in enumerate(layers)
    ]


def _by_evaluation(rows: Sequence[PlasticityRow], column: str) -> tuple[Array, Array]:
    """Return (steps, mean over layers) of each evaluation in order: before and after a consolidation are two points."""
    found: dict[tuple[int, int, int], list[float]] = defaultdict(list)
    for row in rows:
        value = getattr(row, column)
        if value is not None and np.isfinite(value):
            found[row.env_steps, row.stage, _PHASES[row.phase]].append(value)
    steps = [float(steps) for steps, _, _ in sorted(found)]
    return np.array(steps), np.array([np.mean(found[when]) for when in sorted(found)])


def gifs_section(groups: Sequence[Group], out: Path, problems: list[str]) -> Section:
    """The videos that compare two of the runs, and the video grid of each run that has one."""
    lead = (
        "Episodes of every game after every stage; a video of two agents shows them after their last. By default each "
        "cell shows the episode whose return is closest to the mean in the score matrix, with both numbers; the footer "
        "of the grid describes the selection."
    )
    gifs = _comparisons(groups, out, problems)
    for group in groups:
        for run in group.runs:
            path = run.path / "gifs" / "grid.gif"
            if path.is_file():
                label = group.label if len(group.runs) == 1 else f"{group.label}, seed {run.seed}"
                gifs.append(_gif(path, label, "stage", out, problems))
    found = tuple(gif for gif in gifs if gif is not None)
    command = "blip-rl render RUN"
    note = "" if found else f"No video yet: run {command}, then write the report again."
    return Section("play", "Videos", lead, note=note, gifs=found)


def _comparisons(groups: Sequence[Group], out: Path, problems: list[str]) -> list[Gif | None]:
    """Return the videos of two agents side by side, as ``blip-rl render RUN OTHER`` names them."""
    gifs = []
    folders = Counter(run.path.resolve().name for group in groups for run in group.runs)
    for group, other in permutations(groups, 2):
        for run, second in product(group.runs, other.runs):
            path = run.path / "gifs" / f"versus-{second.path.resolve().name}.gif"
            if path.is_file() and folders[second.path.resolve().name] > 1:
                problems.append(f"{run.path.name}/gifs/{path.name}: several runs have this folder name; left out")
            elif path.is_file():
                gifs.append(_gif(path, f"{group.label} and {other.label}", "agent", out, problems))
    return gifs


def _gif(path: Path, label: str, rows: str, out: Path, problems: list[str]) -> Gif | None:
    """Return a video, embedded if small, else linked; None if it cannot be read."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            is_gif = file.read(6) in (b"GIF87a", b"GIF89a")
        if not is_gif:
            problems.append(f"{path.parent.name}/{path.name} is not a GIF: left out")
            return None
        if size < _INLINE_GIF_BYTES:
            return Gif(label, rows, data_uri("image/gif", path.read_bytes()), True, f"{size / 1e6:.1f} MB")
    except OSError as error:
        problems.append(f"{path.parent.name}/{path.name} cannot be read: {error}")
        return None
    relative = os.path.relpath(path.resolve(), out.resolve())
    return Gif(label, rows, quote(Path(relative).as_posix()), False, f"{size / 1e6:.1f} MB")
