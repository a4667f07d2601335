"""``blip-rl import``: create a run folder from a stable-baselines3 agent."""

from __future__ import annotations

from pathlib import Path

import click

from blip_rl.api.loading import loading
from blip_rl.api.trust import trusting_files
from blip_rl.cli.options import NEW_RUN, OVERRIDES, TRUST, complete_games
from blip_rl.shell import shell_command


@click.command(
    "import",
    short_help="Import a stable-baselines3 agent as a run.",
    epilog="Only tensors and plain metadata are read from FILE. Unlike PPO.load, this runs no code from the file. "
    "If the agent was trained with other preprocessing, set it, "
    "for example --set atari.sticky_action_probability=0.25.",
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--game",
    required=True,
    metavar="NAME",
    shell_complete=complete_games,
    help="Game that the agent plays, named as for train.",
)
@OVERRIDES
@NEW_RUN
@TRUST
def import_zip(file: Path, game: str, overrides: tuple[str, ...], out: Path | None, trust: bool) -> None:
    """Create a run folder from FILE, a PPO or A2C agent saved by stable-baselines3.

    The run has one stage and no scores. The commands evaluate, render, report and export accept it like any other run.
    """
    from blip_rl.storage.paths import check_is_file, check_new_folder

    check_is_file(file)
    if out is not None:
        check_new_folder(out)
    with loading():
        from blip_rl.sb3.import_run import import_agent

    with trusting_files(trust):
        run = import_agent(file, game, overrides=overrides, out=out)
    click.echo(f"run folder {run} (only tensors were read from '{file}'; no code from it was run)")
    click.echo(f"evaluate   {shell_command('blip-rl', 'evaluate', run)}")
