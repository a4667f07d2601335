"""``blip-rl train``: train one agent on a sequence of games, or resume a stopped run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from blip_rl.cli.options import (
    NEW_RUN,
    OVERRIDES,
    TRUST,
    complete_agents,
    complete_folders,
    complete_games,
)
from blip_rl.cli.values import Choice, WholeNumber
from blip_rl.errors import FinishedRunError, UserError
from blip_rl.limits import LARGEST_SEED, MOST_THREADS
from blip_rl.tracking.names import CHOICES
from blip_rl.untrusted.files import MOST_TASKS

if TYPE_CHECKING:
    from blip_rl.console import ProgressMode  # imports tqdm
    from blip_rl.tracking.names import TrackChoice


@click.command(
    epilog="A step is one action in one environment (4 frames in Atari). Ctrl-C saves a snapshot and prints the "
    "command that resumes the run; a second Ctrl-C exits immediately."
)
@click.option(
    "--games",
    default="atari6",
    metavar="LIST",
    shell_complete=complete_games,
    help="Comma-separated games to learn, in this order: names of games or sequences, .toml files, or "
    "FILE.toml:TASK. A game that is listed again is visited again.",
)
@click.option(
    "--agent",
    default="blip",
    metavar="NAME|FILE",
    shell_complete=complete_agents,
    help="Agent recipe: a name or a .toml file.",
)
@click.option(
    "--steps",
    metavar="N",
    help="Training steps per game (and visit), for example 500k or 10M, rounded up to whole rollouts.  "
    "[default: as in the recipe]",
)
@click.option(
    "--cycles",
    type=WholeNumber(1, MOST_TASKS),
    metavar="N",
    help="Repeat the order of the games N times.  [default: as in the recipe]",
)
@click.option("--seed", default=0, type=WholeNumber(0, LARGEST_SEED), metavar="N", help="Random seed.")
@click.option(
    "--device", default="auto", metavar="auto|cpu|cuda[:N]", help="Torch device; auto uses a GPU if one is available."
)
@NEW_RUN
@OVERRIDES
@click.option(
    "--resume",
    "resumed",
    type=click.Path(path_type=Path),
    shell_complete=complete_folders,
    metavar="RUN",
    help="Resume a stopped run. Combines only with --accept-changes, --take-over, --finished-ok, --trust, --threads, "
    "--progress, --track and --quiet.",
)
@click.option(
    "--accept-changes",
    is_flag=True,
    help="With --resume: accept changed files, package versions, device or number of threads.",
)
@click.option(
    "--take-over",
    is_flag=True,
    help="With --resume: take the run over from a process that is frozen or whose machine is lost. "
    "If that process wakes up, it exits without changing the run.",
)
@click.option(
    "--finished-ok",
    is_flag=True,
    help="With --resume: exit with code 0 if the run is already finished (for batch jobs).",
)
@TRUST
@click.option(
    "--threads",
    default=0,
    type=WholeNumber(0, MOST_THREADS),
    metavar="N",
    help="CPU threads of torch; 0 uses all cores, or one thread with CUDA.",
)
@click.option("--dry-run", is_flag=True, help="Check everything, print the tasks and estimates, and write nothing.")
@click.option(
    "--progress",
    default="auto",
    type=Choice(["auto", "bar", "log", "off"]),
    help="bar; log: a line every 30 s and after each evaluation; off; auto: bar on a terminal, else log.",
)
@click.option(
    "--track",
    type=Choice(CHOICES),
    help="Also log to this tracker what TensorBoard gets; with --resume, none disables the run's tracker.  "
    "[default: no tracker; with --resume, the run's]",
)
@click.option("--quiet", is_flag=True, help="Print only errors.")
def train(
    games: str,
    agent: str,
    steps: str | None,
    cycles: int | None,
    seed: int,
    device: str,
    out: Path | None,
    overrides: tuple[str, ...],
    threads: int,
    progress: ProgressMode,
    track: TrackChoice | None,
    quiet: bool,
    dry_run: bool,
    resumed: Path | None,
    accept_changes: bool,
    take_over: bool,
    finished_ok: bool,
    trust: bool,
) -> None:
    """Train one agent on a sequence of games."""
    if quiet and progress in ("bar", "log"):
        raise UserError(f"--progress {progress} with --quiet: --quiet prints only errors (leave one of them out)")
    shown = None if quiet else progress
    if resumed is not None:
        _check_combines_with_resume()
        options = {"accept_changes": accept_changes, "take_over": take_over, "threads": threads, "trust": trust}
        _resume(resumed, finished_ok, {**options, "progress": shown, "track": track})
        return
    only_resumed = {"--accept-changes": accept_changes, "--take-over": take_over, "--finished-ok": finished_ok}
    for option, given in only_resumed.items():
        if given:
            raise UserError(f"{option} is only valid with --resume RUN")
    from blip_rl.api import training

    recipe: dict[str, Any] = {
        "games": games.split(","),
        "agent": agent,
        "steps": steps,
        "cycles": cycles,
        "settings": overrides,
    }
    machine: dict[str, Any] = {
        "seed": seed,
        "device": device,
        "out": out,
        "threads": threads,
        "trust": trust,
        "track": track,
    }
    if dry_run:
        click.echo(training.plan(**recipe, **machine))
        return
    training.train(**recipe, **machine, progress=shown)


def _check_combines_with_resume() -> None:
    context = click.get_current_context()
    mine = {"resumed", "accept_changes", "take_over", "finished_ok", "threads", "progress", "quiet", "trust", "track"}
    for name in context.params:
        if name not in mine and context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            option = {"overrides": "set"}.get(name, name).replace("_", "-")
            raise UserError(f"--{option} with --resume: a resumed run keeps its own recipe (leave --{option} out)")


def _resume(run: Path, finished_ok: bool, options: dict[str, Any]) -> None:
    from blip_rl.api import training

    try:
        training.resume(run, **options)
    except FinishedRunError as error:
        if not finished_ok:
            raise
        if options["progress"] is not None:
            click.echo(str(error))
