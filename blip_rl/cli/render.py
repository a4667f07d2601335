"""``blip-rl render``: render videos of one run or of two runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from blip_rl.cli.options import (
    ACTIONS,
    ACTIONS_CHOICE,
    GAMES,
    RUN,
    TRUST,
    complete_folders,
    games_of_run,
    loading,
    trust_runs,
    workers_option,
)
from blip_rl.errors import UserError


@click.command(short_help="Render GIF, WebP or MP4 videos of a run.")
@RUN
@click.argument("other", required=False, type=click.Path(path_type=Path), shell_complete=complete_folders)
@GAMES
@click.option(
    "--stage",
    "stages",
    multiple=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="Only this stage. Repeatable.  [default: all; with OTHER the last stage of each run]",
)
@click.option(
    "--episodes",
    type=int,
    metavar="N",
    help="Play N new episodes per video, at most 32, and show one of them.  [default: show an evaluated episode]",
)
@click.option(
    "--episode",
    default="mean",
    metavar="mean|best|SEED",
    help="Episode to show: return nearest to the mean, best return, or the one with this evaluation seed.",
)
@click.option(
    "--seconds",
    default=10.0,
    metavar="S",
    help="Maximum length of each clip, from the start of the episode; at most 60.",
)
@click.option(
    "--fps", default=15.0, metavar="N", help="Frames per second, at most 50. Atari agents act 15 times per second."
)
@click.option(
    "--scale", type=float, metavar="X", help="Size; 1 is the native Atari width of 160 pixels.  [default: 2; grids 1]"
)
@click.option("--format", "file_format", default="gif", metavar="gif|webp|mp4", help="File format.")
@ACTIONS_CHOICE
@workers_option("the videos")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Output folder; with OTHER the output file.  [default: RUN/gifs, RUN/gifs/versus-AGENT]",
)
@TRUST
def render(
    run: Path,
    other: Path | None,
    games: str | None,
    stages: tuple[int, ...],
    stochastic: bool | None,
    workers: int | None,
    out: Path | None,
    trust: bool,
    **options: Any,
) -> None:
    """Render videos of the agents in run folder RUN.

    Writes one video per game and stage, and a grid of all of them. With a second run folder OTHER: one grid that
    compares the final agents of both runs on the games that both have learned.
    """
    if other is not None and stages:
        raise UserError("--stage with two runs: a comparison shows the last stage of both (leave --stage out)")
    names = games_of_run(run, games)
    from blip_rl.video.options import RenderOptions

    chosen = RenderOptions(actions=ACTIONS[stochastic], **options)
    _check_paths(run, other, out)
    trust_runs(trust, *(run, other) if other is not None else (run,))
    with loading():
        from blip_rl.video.render import render_run, render_versus

    if other is None:
        paths = render_run(run, chosen, games=names, stages=stages or None, workers=workers, out=out)
    else:
        paths = [render_versus(run, other, chosen, games=names, workers=workers, out=out)]
    for path in paths:
        click.echo(f"{path}  {path.stat().st_size / 1024:,.0f} KB")


def _check_paths(run: Path, other: Path | None, out: Path | None) -> None:
    """Check the second run and the output path before episodes are played, which can take hours."""
    from blip_rl.storage.paths import check_run, check_writable_folder

    if other is not None:
        check_run(other)
    if out is None:
        check_writable_folder(run / "gifs")
    else:
        check_writable_folder(out if other is None else out.parent)
