"""``blip-rl export``: export the agents of a run as stable-baselines3 zip files."""

from __future__ import annotations

from pathlib import Path

import click

from blip_rl.api.loading import loading
from blip_rl.api.trust import trust_runs
from blip_rl.cli.options import RUN, TRUST, complete_games_of_run, games_of_run
from blip_rl.cli.values import WholeNumber


@click.command(
    short_help="Export agents as stable-baselines3 zip files.",
    epilog="The files contain only classes of torch, stable-baselines3 and Gymnasium, so PPO.load opens them without "
    "blip-rl. PPO.load unpickles the file and can run code from it: open only files that you trust.",
)
@RUN
@click.option(
    "--games",
    metavar="LIST",
    shell_complete=complete_games_of_run,
    help="Comma-separated games of the run; one file per game.  [default: all learned games]",
)
@click.option(
    "--stage",
    type=WholeNumber(1),
    metavar="N",
    help="Export the agent after this stage.  [default: the last stage]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Output folder or, for a single game, a new .zip file.  [default: RUN/export]",
)
@TRUST
def export(run: Path, games: str | None, stage: int | None, out: Path | None, trust: bool) -> None:
    """Export the agents in run folder RUN as zip files for stable_baselines3.PPO.load.

    An agent that learned several games is written to one file per game. The exported policy computes the same actions
    and values.
    """
    names = games_of_run(run, games)
    if out is not None:
        from blip_rl.storage.paths import check_writable_folder

        check_writable_folder(out.parent if out.suffix.lower() == ".zip" else out)
    trust_runs(trust, run)
    with loading():
        from blip_rl.sb3.export import export_run

    written = export_run(run, games=names, stage=stage, out=out)
    for exported in written:
        size = exported.file.stat().st_size / 1e6
        click.echo(f"{exported.file}  {exported.task} after stage {exported.stage}, {size:,.1f} MB")
    click.echo(f"\nTo play {written[-1].task} with this file, without blip-rl:\n\n{written[-1].usage}")
