"""``blip-rl import``: a run made from an agent that stable-baselines3 trained."""

from __future__ import annotations

from pathlib import Path

import click

from blip_rl.cli.options import complete_folders, complete_games, loading
from blip_rl.shell import shell_command


@click.command(
    "import",
    short_help="Make a run of an agent that stable-baselines3 trained.",
    epilog="Only the tensors and plain facts in FILE are read: PPO.load runs whatever code is in it, this runs none. "
    "Where the agent saw other frames than ours, say so, as with --set atari.sticky_action_probability=0.25.",
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--game", required=True, metavar="NAME", shell_complete=complete_games, help="What the agent plays, as for train."
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a setting of the recipe. Any number of times.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    shell_complete=complete_folders,
    metavar="FOLDER",
    help="New folder for the run.  [default: one below runs/]",
)
def import_zip(file: Path, game: str, overrides: tuple[str, ...], out: Path | None) -> None:
    """Make a run folder of the PPO or A2C in FILE, a zip of stable-baselines3.

    It has one stage and no scores yet; evaluate, render, report and export take it like any other.
    """
    from blip_rl.storage.paths import check_is_file, check_new_folder

    check_is_file(file)
    if out is not None:
        check_new_folder(out)
    with loading():
        from blip_rl.sb3.import_run import import_agent

    run = import_agent(file, game, overrides=overrides, out=out)
    click.echo(f"run folder {run} (only tensors were read from '{file}': no code in it was run)")
    click.echo(f"score it   {shell_command('blip-rl', 'evaluate', run)}")
