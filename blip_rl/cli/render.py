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
    workers_option,
)
from blip_rl.cli.values import Number, WholeNumber
from blip_rl.limits import LARGEST_SCALE, LONGEST_VIDEO_SECONDS, MOST_FPS, MOST_VIDEO_EPISODES


@click.command(short_help="Render GIF, WebP or MP4 videos of a run.")
@RUN
@click.argument("other", required=False, type=click.Path(path_type=Path), shell_complete=complete_folders)
@GAMES
@click.option(
    "--stage",
    "stages",
    multiple=True,
    type=WholeNumber(1),
    metavar="N",
    help="Only this stage. Repeatable.  [default: all; with OTHER the last stage of each run]",
)
@click.option(
    "--episodes",
    type=WholeNumber(1, MOST_VIDEO_EPISODES),
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
    type=Number(0, LONGEST_VIDEO_SECONDS),
    metavar="S",
    help="Maximum length of each clip, from the start of the episode; at most 60.",
)
@click.option(
    "--fps",
    default=15.0,
    type=Number(0, MOST_FPS),
    metavar="N",
    help="Frames per second, 0.1 to 50. Atari agents act 15 times per second.",
)
@click.option(
    "--scale",
    type=Number(0, LARGEST_SCALE),
    metavar="X",
    help="Size; 1 is the native Atari width of 160 pixels.  [default: 2; grids 1]",
)
@click.option("--format", "file_format", default="gif", metavar="gif|webp|mp4", help="File format.")
@ACTIONS_CHOICE
@workers_option("the videos")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Output folder; with OTHER the output file.  [default: RUN/gifs, RUN/gifs/versus-OTHER]",
)
@TRUST
def render(
    run: Path,
    other: Path | None,
    games: str | None,
    stages: tuple[int, ...],
    stochastic: bool | None,
    **options: Any,
) -> None:
    """Render videos of the agents in run folder RUN.

    Writes one video per game and stage, and a grid of all of them. With a second run folder OTHER: one grid that
    compares the final agents of both runs on the games that both have learned.
    """
    from blip_rl.api import viewing

    paths = viewing.render(
        run,
        other,
        games=games_of_run(run, games),
        stages=stages or None,
        actions=ACTIONS[stochastic],
        progress=True,
        **options,
    )
    for path in paths:
        click.echo(f"{path}  {path.stat().st_size / 1024:,.0f} KB")
