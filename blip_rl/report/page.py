"""Assemble ``report.html``: one page that needs no network, no script and no other file."""

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
from blip_rl.references import scale_text
from blip_rl.report import sections, sections_matrix, sections_network, text
from blip_rl.report.figures import FigureWriter
from blip_rl.report.groups import Group, group_runs, normalised_by_recipe, rescale_observed
from blip_rl.report.heatmaps import scale_css
from blip_rl.report.run_record import RunRecord, is_run, load_run
from blip_rl.report.section import Section
from blip_rl.report.sequences import NORMALISERS, comparable_runs, differences
from blip_rl.storage.atomic import replace_bytes
from blip_rl.storage.new_folder import make_folder, stamped

Normalize = Literal["recipe", "observed"]


@dataclass(frozen=True)
class ReportFiles:
    """What was made.

    Attributes:
        page: The HTML file.
        pictures: Folder of PNG and SVG files.
        problems: What is missing or damaged, by run, for a person; also in the page.
    """

    page: Path
    pictures: Path
    problems: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Part:
    """What the page says of runs that can be compared.

    Attributes:
        title: Its games; empty for the only part of a page.
        prefix: Of the addresses of its sections.
        notes: How scores are normalised.
        overviews: What was run, for each group.
        statuses: How far each run is.
        metrics: Label, games learned, games, metrics of each group.
        sections: In order.
    """

    title: str
    prefix: str
    notes: tuple[str, ...]
    overviews: tuple[text.Overview, ...]
    statuses: tuple[text.Status, ...]
    metrics: tuple[tuple[str, int, int, list[text.Tile]], ...]
    sections: tuple[Section, ...]


def write_report(
    paths: Sequence[Path], *, out: Path | None = None, normalize: Normalize = "recipe", title: str | None = None
) -> ReportFiles:
    """Write the page and its pictures; runs that cannot be compared are in parts of their own.

    Args:
        paths: Run folders, or folders of run folders.
        out: Where to; by default the run's own folder for one run, a new one below ``runs/`` for several.
        normalize: 0..1 by the recipe's scores, or by the returns seen in these runs.
        title: Heading; by default agents and games.

    Raises:
        UserError: a folder is none of a run, or ``out`` is no folder.
        OSError: the page cannot be written.
    """
    runs = [load_run(path) for path in run_folders(paths)]
    folder = _folder(runs, out)
    problems = [(run.path.name, problem) for run in runs for problem in run.problems]
    writer = FigureWriter(folder / "pictures")
    found: list[str] = []
    # Rescaled by the returns seen, scores do not depend on the recipe's normalisers.
    ignored = (NORMALISERS,) if normalize == "observed" else ()
    compared = comparable_runs(runs, ignored)
    parts = [
        _part(number if len(compared) > 1 else None, members, normalize, writer, folder, found)
        for number, members in enumerate(compared, start=1)
    ]
    problems += [("pictures", problem) for problem in found]
    html = _render(runs, parts, _separate(compared, ignored), problems, title or text.title_of(compared))
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "report.html"
    replace_bytes(page, html.encode("utf-8", "backslashreplace"))  # a name may hold bytes that are no text
    return ReportFiles(page, writer.folder, tuple(problems))


def run_folders(paths: Sequence[Path]) -> list[Path]:
    """The run folders meant: each once, and those inside a folder that is none itself.

    Raises:
        UserError: neither a run folder nor a folder of some.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        inside = [path] if is_run(path) else sorted(one for one in path.iterdir() if one.is_dir() and is_run(one))
        if not inside:
            raise UserError(
                f"'{path}' is not a run folder and holds none: expected a folder that blip-rl train created, "
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


def _reference_note(runs: Sequence[RunRecord]) -> str:
    """Say whose scores are 1; an older run of the same scores may have no name for them."""
    named: dict[str, str] = {}
    for task in (task for run in runs for task in run.tasks):
        named[task.title] = named.get(task.title) or task.reference_name
    return f"Normalised scores: {scale_text(named.items())}."


def _observed_note(asked: Normalize) -> str:
    meaning = (
        "Scores are rescaled by the returns seen in these runs: 0 is the lowest mean return on a game, 1 the highest."
    )
    if asked == "observed":
        return meaning
    return f"{meaning} The recipe has no random and reference scores for every game."


def _separate(compared: Sequence[Sequence[RunRecord]], ignored: Sequence[str]) -> str:
    """Why there are several parts; empty for one."""
    if len(compared) < 2:
        return ""
    first, *others = (members[0].config for members in compared)
    why = [
        f"part {number} differs from part 1 in {', '.join(differences(first, other, ignored))}"
        for number, other in enumerate(others, start=2)
    ]
    return (
        f"These runs cannot all be compared, so they are in {len(compared)} parts: {text.listed(why)}. Compare "
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
    """One part of the page; ``number`` is None for the only one."""
    notes = []
    if normalize == "observed" or not normalised_by_recipe(runs):
        runs = rescale_observed(runs)
        notes.append(_observed_note(normalize))
    else:
        notes.append(_reference_note(runs))
    groups = group_runs(runs)
    return Part(
        title="" if number is None else f"Part {number}: {text.sequence_title(groups[0].first)}",
        prefix="" if number is None else f"part-{number}-",
        notes=tuple(notes),
        overviews=tuple(text.overview(group) for group in groups),
        statuses=tuple(text.status(run) for group in groups for run in group.runs),
        metrics=tuple((group.label, group.learned, len(group.first.tasks), text.tiles(group)) for group in groups),
        sections=tuple(_sections(groups, writer, out, problems)),
    )


def _sections(groups: Sequence[Group], writer: FigureWriter, out: Path, problems: list[str]) -> list[Section]:
    """In the order in which a person asks."""
    return [
        sections.summary_section(groups, writer),
        sections.accumulated_section(groups, writer),
        sections.games_section(groups, writer),
        sections_matrix.matrix_section(groups, writer),
        sections_network.bits_section(groups, writer, problems),
        sections_matrix.rounding_section(groups, writer),
        sections_network.plasticity_section(groups, writer),
        sections_network.gifs_section(groups, out, problems),
        sections_network.speed_section(groups, writer),
    ]


def _render(
    runs: Sequence[RunRecord],
    parts: Sequence[Part],
    separate: str,
    problems: Sequence[tuple[str, str]],
    title: str,
) -> str:
    """Fill the template. Every text from a file is escaped; only our own style sheet goes in as it is."""
    environment = Environment(
        loader=PackageLoader("blip_rl.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    style = (resources.files("blip_rl.report") / "templates" / "report.css").read_text(encoding="utf-8")
    return environment.get_template("report.html").render(
        title=title,
        heading=title.replace("-", "\N{NON-BREAKING HYPHEN}"),  # or browsers break lines within Kung-Fu
        style=Markup(style.replace("$scale", scale_css())),
        parts=parts,
        separate=separate,
        problems=problems,
        runs=[(run.path.name, run.command, text.facts(run)) for run in runs],
        version=version("blip-rl"),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
