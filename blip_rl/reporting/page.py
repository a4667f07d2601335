"""Write ``report.html``: a self-contained page without scripts or network access."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from blip_rl.errors import UserError
from blip_rl.reference_scores import scale_text
from blip_rl.reporting import (
    sections,
    sections_comparison,
    sections_cost,
    sections_matrix,
    sections_network,
    sections_paired,
    sections_stages,
    text,
)
from blip_rl.reporting.figures import FigureWriter
from blip_rl.reporting.groups import REPEATED, Group, group_runs, repeated_runs
from blip_rl.reporting.heatmaps import scale_css
from blip_rl.reporting.normalising import normalised_by_recipe, rescale_observed
from blip_rl.reporting.run_record import RunRecord, is_run, load_run
from blip_rl.reporting.section import Section
from blip_rl.reporting.sequences import NORMALISERS, comparable_runs, differences
from blip_rl.reporting.summary_metrics import shown_metrics
from blip_rl.storage.atomic import replace_bytes
from blip_rl.storage.new_folder import make_folder, stamped

Normalize = Literal["recipe", "observed"]


@dataclass(frozen=True)
class ReportFiles:
    """Files written by :func:`write_report`.

    Attributes:
        page: The HTML file.
        pictures: Folder of PNG and SVG files.
        problems: (run, message) for everything missing or damaged; also in the page.
    """

    page: Path
    pictures: Path
    problems: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Part:
    """Part of the page about runs that are comparable with each other.

    Attributes:
        title: Games of the part; empty if the page has only one part.
        prefix: Prefix of the HTML ids of its sections.
        note: How scores are normalised.
        overviews: Setup of each group.
        statuses: Progress of each run.
        metrics: (label, progress, summary metrics) of each group; the progress is empty for a complete one.
        sections: In order.
    """

    title: str
    prefix: str
    note: str
    overviews: tuple[text.Overview, ...]
    statuses: tuple[text.Status, ...]
    metrics: tuple[tuple[str, str, list[text.Tile]], ...]
    sections: tuple[Section, ...]


def write_report(
    paths: Sequence[Path], *, out: Path | None = None, normalize: Normalize = "recipe", title: str | None = None
) -> ReportFiles:
    """Write the page and its figures; runs that are not comparable get separate parts.

    Args:
        paths: Run folders, or folders that contain run folders.
        out: Output folder. Default: the run folder for one run, a new folder below ``runs/`` for several.
        normalize: ``recipe``: by the recipe's random and reference scores; ``observed``: by the lowest and highest
            mean return in these runs.
        title: Heading. Default: agents and games.

    Raises:
        UserError: A path is not a run folder and contains none, or ``out`` is a file.
        OSError: The page cannot be written.
    """
    runs = [load_run(path) for path in run_folders(paths)]
    folder = _folder(runs, out)
    problems = [(run.path.name, problem) for run in runs for problem in run.problems]
    writer = FigureWriter(folder / "pictures")
    found: list[str] = []
    # With observed normalisation, scores do not depend on the recipe's normalisers.
    ignored = (NORMALISERS,) if normalize == "observed" else ()
    compared = comparable_runs(runs, ignored)
    parts = [
        _part(number if len(compared) > 1 else None, members, normalize, writer, folder, found)
        for number, members in enumerate(compared, start=1)
    ]
    problems += [(run.path.name, REPEATED) for members in compared for run in repeated_runs(members)]
    problems += [("pictures", problem) for problem in found]
    html = _render(runs, parts, _separate(compared, ignored), problems, title or text.title_of(compared))
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "report.html"
    replace_bytes(page, html.encode("utf-8", "backslashreplace"))  # file names may contain bytes that are not UTF-8
    return ReportFiles(page, writer.folder, tuple(problems))


def run_folders(paths: Sequence[Path]) -> list[Path]:
    """Return the run folders among the paths, or inside those that are not run folders, without duplicates.

    Raises:
        UserError: A path is not a run folder and contains none.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        inside = [path] if is_run(path) else sorted(one for one in path.iterdir() if one.is_dir() and is_run(one))
        if not inside:
            raise UserError(
                f"'{path}' is not a run folder and contains none: expected a folder that blip-rl train created, "
                "with config.toml and scores.csv"
            )
        found.update({one.resolve(): one for one in inside})
    return list(found)


def _folder(runs: Sequence[RunRecord], out: Path | None) -> Path:
    if out is not None:
        if out.exists() and not out.is_dir():
            raise UserError(f"--out '{out}' is a file: expected a folder to write report.html into")
        return out
    if len(runs) == 1:
        return runs[0].path
    return make_folder(stamped("report"))


def _normalised(runs: Sequence[RunRecord], asked: Normalize) -> tuple[Sequence[RunRecord], str]:
    """Return the runs, rescaled by observed returns if asked or necessary, and a note about the normalisation."""
    if normalised_by_recipe(runs) and asked == "recipe":
        # Runs of earlier versions may lack the name of the reference; others provide it.
        named: dict[str, str] = {}
        for task in (task for run in runs for task in run.tasks if task.has_normalisers):
            named[task.title] = named.get(task.title) or task.reference_name
        return runs, f"Normalised scores: {scale_text(named.items())}.{_without_normalisers(runs)}"
    note = (
        "Scores are normalised by the returns observed in these runs: 0 is the lowest mean return on a game, "
        "1 the highest."
    )
    if asked == "recipe":
        note += " The recipe has no game with both a random and a reference score."
    return rescale_observed(runs), note


def _without_normalisers(runs: Sequence[RunRecord]) -> str:
    """Name the games that are not normalised; empty if all are."""
    bare = dict.fromkeys(task.title for run in runs for task in run.tasks if not task.has_normalisers)
    if not bare:
        return ""
    return (
        f" Not normalised: {text.listed(list(bare))}, for which the recipe lacks a random or a reference score; "
        "metrics are over the other games."
    )


def _separate(compared: Sequence[Sequence[RunRecord]], ignored: Sequence[str]) -> str:
    """Return why the page has several parts; empty for one."""
    if len(compared) < 2:
        return ""
    first, *others = (members[0].config for members in compared)
    why = [
        f"part {number} differs from part 1 in {', '.join(differences(first, other, ignored))}"
        for number, other in enumerate(others, start=2)
    ]
    return (
        f"These runs are not all comparable, so they are shown in {len(compared)} parts: {text.listed(why)}. Compare "
        "scores, curves and metrics within a part only."
    )


def _part(
    number: int | None,
    runs: Sequence[RunRecord],
    normalize: Normalize,
    writer: FigureWriter,
    out: Path,
    problems: list[str],
) -> Part:
    """Return a part of the page; ``number`` is None if it is the only one."""
    runs, note = _normalised(runs, normalize)
    groups = group_runs(runs)
    shown = shown_metrics(groups)
    return Part(
        title="" if number is None else f"Part {number}: {text.sequence_title(groups[0].first)}",
        prefix="" if number is None else f"part-{number}-",
        note=note,
        overviews=tuple(text.overview(group) for group in groups),
        statuses=tuple(text.status(run) for group in groups for run in group.runs),
        metrics=tuple((group.label, text.progress(group), text.tiles(group, shown)) for group in groups),
        sections=tuple(_sections(groups, writer, out, problems)),
    )


def _sections(groups: Sequence[Group], writer: FigureWriter, out: Path, problems: list[str]) -> list[Section]:
    """Return all sections in the order of the page."""
    return [
        sections.summary_section(groups, writer),
        *sections_paired.paired_section(groups),
        *sections_comparison.comparison_section(groups, writer),
        sections.accumulated_section(groups, writer),
        sections.games_section(groups, writer),
        sections_matrix.matrix_section(groups, writer),
        sections_stages.stages_section(groups),
        sections_network.bits_section(groups, writer, problems),
        sections_matrix.consolidation_section(groups, writer),
        sections_network.plasticity_section(groups, writer),
        sections_network.gifs_section(groups, out, problems),
        sections_cost.cost_section(groups, writer),
    ]


def _render(
    runs: Sequence[RunRecord],
    parts: Sequence[Part],
    separate: str,
    problems: Sequence[tuple[str, str]],
    title: str,
) -> str:
    """Render the template. Autoescaping covers all text from files; only our own style sheet is inserted as markup."""
    environment = Environment(
        loader=PackageLoader("blip_rl.reporting"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    style = (resources.files("blip_rl.reporting") / "templates" / "report.css").read_text(encoding="utf-8")
    return environment.get_template("report.html").render(
        title=title,
        heading=title.replace("-", "\N{NON-BREAKING HYPHEN}"),  # prevents line breaks within names such as Kung-Fu
        style=Markup(style.replace("$scale", scale_css())),
        parts=parts,
        separate=separate,
        problems=problems,
        runs=[(run.path.name, run.command, text.facts(run)) for run in runs],
        version=version("blip-rl"),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
