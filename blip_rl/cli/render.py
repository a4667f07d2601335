"""``blip-rl render``: moving pictures of a run, or of two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from blip_rl.cli.options import (
    ACTIONS,
    ACTIONS_CHOICE,
    GAMES,
    RUN,
    complete_folders,
    games_of_run,
    loading,
    workers_option,
)
from blip_rl.errors import UserError


@click.command(short_help="Make moving pictures of a run, or of two.")
@RUN
@click.argument("other", required=False, type=click.Path(path_type=Path), shell_complete=complete_folders)
@GAMES
@click.option(
    "--stage",
    "stages",
    multiple=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="Only this stage; any number of times.  [default: all; with OTHER, each run's last]",
)
@click.option(
    "--episodes",
    type=int,
    metavar="N",
    help="Play N new games for each film, at most 32, and show one of them.  [default: show a scored game]",
)
@click.option(
    "--episode",
    default="mean",
    metavar="mean|best|SEED",
    help="The game shown: nearest to the mean, the best, or the one with this evaluation seed.",
)
@click.option("--seconds", default=10.0, metavar="S", help="Shown of each game, from its beginning; at most 60.")
@click.option("--fps", default=15.0, metavar="N", help="Pictures a second, at most 50; Atari agents act 15 times.")
@click.option("--scale", type=float, metavar="X", help="Size: 1 is a game's native 160 pixels.  [default: 2; sheets 1]")
@click.option("--format", "file_format", default="gif", metavar="gif|webp|mp4", help="Kind of file.")
@ACTIONS_CHOICE
@workers_option("the pictures")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Folder, or with OTHER the file.  [default: RUN/gifs, RUN/gifs/versus-AGENT]",
)
def render(
    run: Path,
    other: Path | None,
    games: str | None,
    stages: tuple[int, ...],
    stochastic: bool | None,
    workers: int | None,
    out: Path | None,
    **options: Any,
) -> None:
    """Make moving pictures of the run in folder RUN.

    One of every game after every stage that had learned it, and all of them on a grid. With a second run, OTHER: one
    sheet of the games that both have learned, each played by both agents as they are in the end.
    """
    if other is not None and stages:
        raise UserError("--stage with two runs: both are shown as they are in the end (leave --stage out)")
    names = games_of_run(run, games)
    from blip_rl.video.options import RenderOptions

    chosen = RenderOptions(actions=ACTIONS[stochastic], **options)
    _check_places(run, other, out)
    with loading():
        from blip_rl.video.render import render_run, render_versus

    if other is None:
        paths = render_run(run, chosen, games=names, stages=stages or None, workers=workers, out=out)
    else:
        paths = [render_versus(run, other, chosen, games=names, workers=workers, out=out)]
    for path in paths:
        click.echo(f"{path}  {path.stat().st_size / 1024:,.0f} KB")


def _check_places(run: Path, other: Path | None, out: Path | None) -> None:
    """Check the second run and where the pictures go, before hours of playing."""
    from blip_rl.storage.paths import check_run, check_writable_folder

    if other is not None:
        check_run(other)
    if out is None:
        check_writable_folder(run / "gifs")
    else:
        check_writable_folder(out if other is None else out.parent)
