"""What several verbs take alike, and what a shell completes."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import click
from click.shell_completion import CompletionItem

from blip_rl.errors import UserError

Verb = TypeVar("Verb", bound=Callable[..., Any])

ACTIONS: dict[bool | None, Literal["greedy", "stochastic"] | None] = {True: "stochastic", False: "greedy", None: None}
"""What ``--stochastic``, ``--greedy`` and neither of them ask for."""


def complete_folders(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Leave folders to the shell."""
    return [CompletionItem(incomplete, type="dir")]


def complete_agents(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of the shipped agents."""
    from blip_rl.recipes.files import list_agents

    return [CompletionItem(a.name, help=a.description) for a in list_agents() if a.name.startswith(incomplete)]


def complete_games(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of games and sequences, behind the last comma."""
    from blip_rl.recipes.files import list_games, recipe_names

    before, comma, last = incomplete.rpartition(",")
    names = [*recipe_names("envs"), *(game.name for game in list_games())]
    return [CompletionItem(f"{before}{comma}{name}") for name in names if name.startswith(last)]


def complete_games_of_run(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of the games of the run typed before, behind the last comma."""
    from blip_rl.storage.paths import task_games

    before, comma, last = incomplete.rpartition(",")
    run = ctx.params.get("run") or next(iter(ctx.args), "")  # click parses nothing before an option without its value
    try:
        names = list(task_games(Path(run)))
    except UserError:
        return []
    return [CompletionItem(f"{before}{comma}{name}") for name in names if name.startswith(last)]


RUN = click.argument("run", type=click.Path(path_type=Path), shell_complete=complete_folders)
GAMES = click.option(
    "--games",
    metavar="LIST",
    shell_complete=complete_games_of_run,
    help="Games of the run, separated by commas.  [default: all]",
)
STAGES = click.option(
    "--stage",
    "stages",
    multiple=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="Only this stage; any number of times.  [default: all]",
)
ACTIONS_CHOICE = click.option(
    "--stochastic/--greedy", default=None, help="Draw actions, or take the likeliest.  [default: the run's]"
)


def workers_option(what: str) -> Callable[[Verb], Verb]:
    """``--workers``, with what the number does not change."""
    return click.option(
        "--workers",
        type=click.IntRange(1, 1024),
        metavar="N",
        help=f"Processes; {what} do not depend on it.  [default: all cores for Atari, else 1]",
    )


def games_of_run(run: Path, games: str | None) -> tuple[str, ...] | None:
    """Check a run's folder and the games asked for of it, before anything heavy is imported.

    Returns:
        The games' names; None for all.

    Raises:
        UserError: not a run folder, or a game that it never saw.
    """
    from blip_rl.storage.paths import check_run, named_games, task_games

    check_run(run)
    if games is None:
        return None
    from blip_rl.recipes import split_names

    return named_games(split_names(games), task_games(run))


@contextmanager
def loading() -> Iterator[None]:
    """Look for no garbage meanwhile: what modules make stays, and looking takes 0.3 s of the 1.9 that torch's take."""
    looking = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if looking:
            gc.enable()
