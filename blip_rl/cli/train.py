"""``blip-rl train``: learn games one after another, or go on with a run that was stopped."""

from __future__ import annotations

from pathlib import Path

import click

from blip_rl.cli.options import complete_agents, complete_folders, complete_games, loading
from blip_rl.errors import FinishedRunError, UserError

_LARGEST_SEED = 2**30 - 1


@click.command(
    epilog="A step is one decision of one environment: 4 frames in Atari. Ctrl-C saves and prints the command that "
    "goes on from there; a second one leaves at once."
)
@click.option(
    "--games",
    default="atari6",
    metavar="LIST",
    shell_complete=complete_games,
    help="What to learn, in this order: names of games, of a sequence, or a .toml file, separated by commas.",
)
@click.option(
    "--agent",
    default="blip",
    metavar="NAME|FILE",
    shell_complete=complete_agents,
    help="How to learn: an agent recipe's name, or a .toml file.",
)
@click.option("--steps", metavar="N", help="Steps of every game, for example 500k or 10M.  [default: the recipe's]")
@click.option("--seed", default=0, type=click.IntRange(0, _LARGEST_SEED), metavar="N", help="Seed of the run.")
@click.option("--device", default="auto", metavar="auto|cpu|cuda[:N]", help="Where the network is; auto: a GPU if any.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    shell_complete=complete_folders,
    metavar="FOLDER",
    help="New folder for the run.  [default: one below runs/]",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a recipe's setting, as in ppo.learning_rate=1e-4; none removes it. Any number of times.",
)
@click.option(
    "--resume",
    "resumed",
    type=click.Path(path_type=Path),
    shell_complete=complete_folders,
    metavar="RUN",
    help="Go on with a run that was stopped: takes no other option but the next two, --threads and --quiet.",
)
@click.option("--accept-changes", is_flag=True, help="With --resume: although versions or device have changed.")
@click.option("--finished-ok", is_flag=True, help="With --resume: exit with 0 if the run is finished, for batch jobs.")
@click.option(
    "--threads", default=0, type=click.IntRange(0, 1024), metavar="N", help="CPU threads; 0: all cores, one on CUDA."
)
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def train(
    games: str,
    agent: str,
    steps: str | None,
    seed: int,
    device: str,
    out: Path | None,
    overrides: tuple[str, ...],
    threads: int,
    quiet: bool,
    resumed: Path | None,
    accept_changes: bool,
    finished_ok: bool,
) -> None:
    """Learn games one after another with one agent."""
    if resumed is not None:
        _resume(resumed, accept_changes, finished_ok, threads, quiet)
        return
    for option, given in (("--accept-changes", accept_changes), ("--finished-ok", finished_ok)):
        if given:
            raise UserError(f"{option} goes with --resume RUN alone")
    if out is not None:
        from blip_rl.storage.paths import check_new_run

        check_new_run(out)
    with loading():
        from blip_rl.recipes import resolve

        config = resolve(games, agent, steps=steps, seed=seed, device=device, overrides=overrides)
        from blip_rl.run.train import train as train_sequence

    train_sequence(config, out=out, threads=threads, quiet=quiet)


def _resume(run: Path, accept_changes: bool, finished_ok: bool, threads: int, quiet: bool) -> None:
    context = click.get_current_context()
    mine = {"resumed", "accept_changes", "finished_ok", "threads", "quiet"}
    for name in context.params:
        if name not in mine and context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            option = {"overrides": "set"}.get(name, name)
            raise UserError(f"--{option} with --resume: a run goes on with its own recipe (leave it out)")
    from blip_rl.storage.paths import check_run

    check_run(run)
    with loading():
        from blip_rl.run.train import resume

    try:
        resume(run, accept_changes=accept_changes, threads=threads, quiet=quiet)
    except FinishedRunError as error:
        if not finished_ok:
            raise
        if not quiet:
            click.echo(str(error))
