"""``blip-rl export``: agents of a run as files that stable-baselines3 opens by itself."""

from __future__ import annotations

from pathlib import Path

import click

from blip_rl.cli.options import RUN, complete_games_of_run, games_of_run, loading


@click.command(
    short_help="Write zips that stable-baselines3 opens by itself.",
    epilog="The files hold nothing but classes of torch, stable-baselines3 and Gymnasium: PPO.load opens them where "
    "blip-rl is not installed. Opening any such file runs what is in it: open those you trust.",
)
@RUN
@click.option(
    "--games",
    metavar="LIST",
    shell_complete=complete_games_of_run,
    help="Games of the run, separated by commas; a file for each.  [default: all that were learned]",
)
@click.option("--stage", type=click.IntRange(min=1), metavar="N", help="Agent after this stage.  [default: the last]")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Folder, or for one game a new file named ….zip.  [default: RUN/export]",
)
def export(run: Path, games: str | None, stage: int | None, out: Path | None) -> None:
    """Write the agents of the run in folder RUN as zips for stable_baselines3.PPO.load.

    An agent that learned several games becomes a file for each of them, with the same actions and values.
    """
    names = games_of_run(run, games)
    if out is not None:
        from blip_rl.storage.paths import check_writable_folder

        check_writable_folder(out.parent if out.suffix.lower() == ".zip" else out)
    with loading():
        from blip_rl.sb3.export import export_run

    written = export_run(run, games=names, stage=stage, out=out)
    for exported in written:
        size = exported.file.stat().st_size / 1e6
        click.echo(f"{exported.file}  {exported.task} after stage {exported.stage}, {size:,.1f} MB")
    click.echo(f"\nTo play {written[-1].task} with it, no blip-rl needed:\n\n{written[-1].usage}")
