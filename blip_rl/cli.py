"""The verbs of ``blip-rl``. Nothing heavy is imported until a verb runs, so help answers at once."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from pathlib import Path
from typing import Any, Literal, NoReturn

import click
from click.shell_completion import CompletionItem

from blip_rl import __version__
from blip_rl.errors import InterruptedRunError, RunError, UserError, did_you_mean

_INTERRUPTED = 130  # 128 + SIGINT, as shells count
_LARGEST_SEED = 2**30 - 1
_MOST_WARNINGS = 8
_ACTIONS: dict[bool | None, Literal["greedy", "stochastic"] | None] = {True: "stochastic", False: "greedy", None: None}

# What several verbs take alike.
_RUN = click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
_GAMES = click.option("--games", metavar="LIST", help="Games of the run, separated by commas.  [default: all]")
_ACTIONS_CHOICE = click.option(
    "--stochastic/--greedy", default=None, help="Draw actions, or take the likeliest.  [default: the run's]"
)

_EXAMPLES = """\b
Examples:
  blip-rl train                                     the paper's six games with BLIP
  blip-rl train --games kungfu,boxing --steps 500k  two of them, shorter
  blip-rl train --agent finetune --seed 1           what happens without BLIP
  blip-rl train --set ppo.learning_rate=1e-4        one setting changed
  blip-rl list games                                what --games knows
"""


class BadInput(click.ClickException):
    """A person's mistake: one message, no traceback."""

    exit_code = 2


class _Verbs(click.Group):
    """A group that turns mistakes into messages and suggests the verb that was meant."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            raise BadInput(str(error)) from error

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        verbs = self.list_commands(ctx)
        if args and args[0] not in verbs and not args[0].startswith("-"):
            hint = did_you_mean(args[0], verbs) or f": expected one of {', '.join(verbs)}"
            raise click.UsageError(f"unknown command {args[0]!r}{hint}", ctx)
        return super().resolve_command(ctx, args)


def _complete_agents(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from blip_rl.recipes.files import list_agents

    return [CompletionItem(a.name, help=a.description) for a in list_agents() if a.name.startswith(incomplete)]


def _complete_games(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from blip_rl.recipes.files import list_games, recipe_names

    before, comma, last = incomplete.rpartition(",")
    names = [*recipe_names("envs"), *(game.name for game in list_games())]
    return [CompletionItem(f"{before}{comma}{name}") for name in names if name.startswith(last)]


@click.group(
    cls=_Verbs,
    epilog=_EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100},
)
@click.version_option(__version__, message="%(prog)s %(version)s", prog_name="blip-rl")
def cli() -> None:
    """Continual reinforcement learning on Atari: one PPO agent learns game after game, BLIP keeps what it knows."""


@cli.command(
    epilog="A step is one decision of one environment: 4 frames in Atari. Ctrl-C saves and prints the command that "
    "goes on from there; a second one leaves at once."
)
@click.option(
    "--games",
    default="atari6",
    metavar="LIST",
    shell_complete=_complete_games,
    help="What to learn, in this order: names of games, of a sequence, or a .toml file, separated by commas.",
)
@click.option(
    "--agent",
    default="blip",
    metavar="NAME|FILE",
    shell_complete=_complete_agents,
    help="How to learn: an agent recipe's name, or a .toml file.",
)
@click.option("--steps", metavar="N", help="Steps of every game, for example 500k or 10M.  [default: the recipe's]")
@click.option("--seed", default=0, type=click.IntRange(0, _LARGEST_SEED), metavar="N", help="Seed of the run.")
@click.option("--device", default="auto", metavar="auto|cpu|cuda[:N]", help="Where the network is; auto: a GPU if any.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
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
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="RUN",
    help="Go on with a run that was stopped: takes no other option but the next, --threads and --quiet.",
)
@click.option("--accept-changes", is_flag=True, help="With --resume: although versions or device have changed.")
@click.option("--threads", default=0, type=click.IntRange(0, 1024), metavar="N", help="CPU threads; 0: all cores.")
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
) -> None:
    """Learn games one after another with one agent."""
    if resumed is not None:
        _resume(resumed, accept_changes, threads, quiet)
        return
    if accept_changes:
        raise UserError("--accept-changes goes with --resume RUN alone")
    from blip_rl.recipes import resolve

    config = resolve(games, agent, steps=steps, seed=seed, device=device, overrides=overrides)
    from blip_rl.run.sequence import train as train_sequence

    train_sequence(config, out=out, threads=threads, quiet=quiet)


def _resume(run: Path, accept_changes: bool, threads: int, quiet: bool) -> None:
    context = click.get_current_context()
    mine = {"resumed", "accept_changes", "threads", "quiet"}
    for name in context.params:
        if name not in mine and context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            option = {"overrides": "set"}.get(name, name)
            raise UserError(f"--{option} with --resume: a run goes on with its own recipe (leave it out)")
    from blip_rl.run.sequence import resume

    resume(run, accept_changes=accept_changes, threads=threads, quiet=quiet)


@cli.command(short_help="Score every stage of a run again.")
@_RUN
@_GAMES
@click.option("--episodes", type=click.IntRange(min=1), metavar="N", help="For each game.  [default: the run's]")
@_ACTIONS_CHOICE
@click.option("--zero-shot", is_flag=True, help="Also play games that a stage had not learned yet.")
@click.option(
    "--stage",
    "stages",
    multiple=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="Only this stage; any number of times.  [default: all]",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 1024),
    metavar="N",
    help="Processes; the scores do not depend on it.  [default: all cores for Atari, else 1]",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**29 - 1), metavar="N", help="First evaluation seed.  [default: the run's]"
)
def evaluate(run: Path, games: str | None, stochastic: bool | None, stages: tuple[int, ...], **options: Any) -> None:
    """Score every stage of the run in folder RUN again: fill or extend its score matrix."""
    from blip_rl.recipes import split_names

    names = None if games is None else split_names(games)
    from blip_rl.run.rescore import evaluate_run

    click.echo(evaluate_run(run, games=names, actions=_ACTIONS[stochastic], stages=stages or None, **options))


@cli.command("inspect", short_help="Show which bits are frozen, and check them.")
@_RUN
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect_folder(run: Path, as_json: bool) -> None:
    """Show the bits frozen and free in the run in folder RUN, what still fits, and whether a frozen bit flipped."""
    from blip_rl.report.inspect import inspect_run
    from blip_rl.report.inspect_text import inspection_text

    found = inspect_run(run)
    if as_json:
        import json

        click.echo(json.dumps(found.to_json(), indent=2))
    else:
        click.echo(inspection_text(found))


@cli.command(
    short_help="Make a page with pictures of some runs.",
    epilog="Works on a run that is still going, or that was broken off: the page says what is missing.",
)
@click.argument("runs", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
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
    from blip_rl.report.page import write_report

    written = write_report(runs, out=out, normalize=normalize, title=title)
    for name, problem in written.problems[:_MOST_WARNINGS]:
        click.echo(f"Warning: {name}: {problem}", err=True)
    if len(written.problems) > _MOST_WARNINGS:
        click.echo(f"Warning: and {len(written.problems) - _MOST_WARNINGS} more, all in the report", err=True)
    click.echo(f"report    {written.page}\npictures  {written.pictures}")


@cli.command(short_help="Make moving pictures of a run, or of two.")
@_RUN
@click.argument("other", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@_GAMES
@click.option(
    "--stage",
    "stages",
    multiple=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="Only this stage; any number of times.  [default: all; with OTHER, each run's last]",
)
@click.option("--episodes", default=5, metavar="N", help="Games played for each picture, at most 32; one is shown.")
@click.option("--episode", default="median", metavar="median|best|SEED", help="The one shown.")
@click.option("--seconds", default=10.0, metavar="S", help="Shown of each game, from its beginning; at most 60.")
@click.option("--fps", default=15.0, metavar="N", help="Pictures a second, at most 50; Atari agents act 15 times.")
@click.option("--scale", type=float, metavar="X", help="Size: 1 is a game's native 160 pixels.  [default: 2; sheets 1]")
@click.option("--format", "file_format", default="gif", metavar="gif|webp|mp4", help="Kind of file.")
@_ACTIONS_CHOICE
@click.option(
    "--workers",
    type=click.IntRange(1, 1024),
    metavar="N",
    help="Processes; the pictures do not depend on it.  [default: all cores for Atari, else 1]",
)
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
    **look: Any,
) -> None:
    """Make moving pictures of the run in folder RUN.

    One of every game after every stage that had learned it, and all of them on a grid. With a second run, OTHER: one
    sheet of the games that both have learned, each played by both agents as they are in the end.
    """
    if other is not None and stages:
        raise UserError("--stage with two runs: both are shown as they are in the end (leave --stage out)")
    from blip_rl.recipes import split_names

    names = None if games is None else split_names(games)
    from blip_rl.run.filming import Look
    from blip_rl.run.render import render_run, render_versus

    chosen = Look(actions=_ACTIONS[stochastic], **look)
    if other is None:
        paths = render_run(run, chosen, games=names, stages=stages or None, workers=workers, out=out)
    else:
        paths = [render_versus(run, other, chosen, games=names, workers=workers, out=out)]
    for path in paths:
        click.echo(f"{path}  {path.stat().st_size / 1024:,.0f} KB")


@cli.command("list")
@click.argument("kind", required=False, type=click.Choice(["games", "agents", "sequences", "methods"]))
@click.option("--all", "every", is_flag=True, help="With games: every ALE ROM too.")
def list_names(kind: str | None, every: bool) -> None:
    """List the names that the other commands know, a line each."""
    from blip_rl.listing import print_names

    print_names(kind, every)


def main() -> NoReturn:
    """Run the command line and exit: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    # Threads that wait for work should sleep: spinning ones starve the emulator, and with other programs on the machine
    # slow training several times (docs/performance.md). Read when torch loads, so it must be set before.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    warnings.showwarning = _show_warning
    threading.excepthook = _end_thread
    try:
        code = cli.main(prog_name="blip-rl", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = _INTERRUPTED
    except BrokenPipeError:
        code = _leave_broken_pipe()
    except InterruptedRunError as error:
        click.echo(str(error), err=True)
        code = 128 + error.signal_number
    except (RunError, OSError) as error:
        # A full disk or a folder that may not be written: the system's message says it all.
        click.echo(f"Error: {error}", err=True)
        code = 1
    sys.exit(code or 0)


def _show_warning(message: Warning | str, *_where: Any, **_more: Any) -> None:
    """Print what a warning says, without the line of code that raised it."""
    click.echo(f"Warning: {message}", err=True)


def _end_thread(ended: threading.ExceptHookArgs) -> None:
    """A full disk met by the thread that writes TensorBoard's events: the run hears of it at its next write."""
    if not isinstance(ended.exc_value, OSError):
        threading.__excepthook__(ended)


def _leave_broken_pipe() -> int:
    """Whoever read the output has gone, as with ``| head``: let the interpreter's last flush go nowhere, quietly."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


if __name__ == "__main__":
    main()
