"""``blip-rl report``: write an HTML report of one or more runs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from blip_rl.cli.options import complete_folders
from blip_rl.cli.values import Choice

_MAX_WARNINGS = 8


@click.command(
    short_help="Write an HTML report of one or more runs.",
    epilog="Unfinished runs are accepted: the report states what is missing.",
)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), shell_complete=complete_folders)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    shell_complete=complete_folders,
    metavar="FOLDER",
    help="Folder for report.html and pictures/.  [default: the folder of the run or the sweep; for several runs a new "
    "one below runs/]",
)
@click.option(
    "--normalize",
    type=Choice(["recipe", "observed"]),
    default="recipe",
    help="Normalize scores by the recipe's random and reference scores or by the returns observed in these runs.",
)
@click.option("--title", metavar="TEXT", help="Title of the report.  [default: agents and games]")
def report(
    runs: tuple[Path, ...], out: Path | None, normalize: Literal["recipe", "observed"], title: str | None
) -> None:
    """Write an HTML report with charts of the run folders RUNS, grouped by agent.

    A folder that contains run folders selects all of them; a sweep folder selects the runs of its plan.
    """
    from blip_rl.api import viewing
    from blip_rl.untrusted.files import printable

    written = viewing.report(runs, out=out, normalize=normalize, title=title)
    for name, problem in written.problems[:_MAX_WARNINGS]:
        click.echo(f"Warning: {printable(name)}: {printable(problem)}", err=True)
    if len(written.problems) > _MAX_WARNINGS:
        click.echo(f"Warning: and {len(written.problems) - _MAX_WARNINGS} more (see the report)", err=True)
    click.echo(f"report    {written.page}\npictures  {written.pictures}")
