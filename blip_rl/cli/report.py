"""``blip-rl report``: one page with pictures of some runs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from blip_rl.cli.options import complete_folders

_MAX_WARNINGS = 8


@click.command(
    short_help="Make a page with pictures of some runs.",
    epilog="Works on a run that is still going, or that was broken off: the page says what is missing.",
)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), shell_complete=complete_folders)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    shell_complete=complete_folders,
    metavar="FOLDER",
    help="Where report.html and pictures/ go.  [default: the run's folder; for several, a new one below runs/]",
)
@click.option(
    "--normalize",
    type=click.Choice(["recipe", "observed"]),
    default="recipe",
    help="0 to 1 by the recipe's random and reference scores, or by the returns seen in these runs.",
)
@click.option("--title", metavar="TEXT", help="Heading of the page.  [default: agents and games]")
def report(
    runs: tuple[Path, ...], out: Path | None, normalize: Literal["recipe", "observed"], title: str | None
) -> None:
    """Make a page with pictures of the runs in folders RUNS, grouped by agent.

    A folder that holds run folders stands for all of them.
    """
    from blip_rl.storage.paths import check_is_folder, check_writable_folder

    for run in runs:
        check_is_folder(run)
    if out is not None:
        check_writable_folder(out)
    elif len(runs) == 1 and (runs[0] / "config.toml").is_file():
        check_writable_folder(runs[0])
    from blip_rl.report.page import write_report
    from blip_rl.untrusted.files import printable

    written = write_report(runs, out=out, normalize=normalize, title=title)
    for name, problem in written.problems[:_MAX_WARNINGS]:
        click.echo(f"Warning: {printable(name)}: {printable(problem)}", err=True)
    if len(written.problems) > _MAX_WARNINGS:
        click.echo(f"Warning: and {len(written.problems) - _MAX_WARNINGS} more, all in the report", err=True)
    click.echo(f"report    {written.page}\npictures  {written.pictures}")
