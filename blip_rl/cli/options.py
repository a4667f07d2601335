"""Options and arguments shared by several commands, their shell completion, and library loading."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import click
from click.shell_completion import CompletionItem

from blip_rl.cli.values import WholeNumber
from blip_rl.errors import UserError
from blip_rl.limits import MOST_WORKERS

Verb = TypeVar("Verb", bound=Callable[..., Any])

ACTIONS: dict[bool | None, Literal["greedy", "stochastic"] | None] = {True: "stochastic", False: "greedy", None: None}
"""Value of the flag ``--stochastic/--greedy`` → action selection; None: as in the run's recipe."""


def complete_folders(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete folder names."""
    return [CompletionItem(incomplete, type="dir")]


def complete_agents(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the names of shipped agents."""
    from blip_rl.recipes.files import list_agents

    return [CompletionItem(a.name, help=a.description) for a in list_agents() if a.name.startswith(incomplete)]


def complete_recipes(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the names of shipped agents and sequences."""
    from blip_rl.recipes.files import list_agents, list_sequences

    recipes = [*list_agents(), *list_sequences()]
    return [CompletionItem(r.name, help=r.description) for r in recipes if r.name.startswith(incomplete)]


def complete_games(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name after the last comma: games and sequences."""
    from blip_rl.recipes.files import list_games, recipe_names

    before, comma, last = incomplete.rpartition(",")
    names = [*recipe_names("envs"), *(game.name for game in list_games())]
    return [CompletionItem(f"{before}{comma}{name}") for name in names if name.startswith(last)]


def complete_games_of_run(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name after the last comma: games of the run given on the command line."""
    from blip_rl.storage.paths import task_games

    before, comma, last = incomplete.rpartition(",")
    run = ctx.params.get("run") or next(
        iter(ctx.args), ""
    )  # click leaves earlier arguments unparsed while an option lacks its value
    try:
        names = list(task_games(Path(run)))
    except UserError:
        return []
    return [CompletionItem(f"{before}{comma}{name}") for name in names if name.startswith(last)]


class RunPath(click.Path):
    """A run folder, or ``hf:user/name``, which is downloaded from the Hugging Face Hub."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the folder."""
        if isinstance(value, str) and value.startswith("hf:"):
            from blip_rl.sharing.hub import fetch

            return fetch(value)
        return super().convert(value, param, ctx)


RUN = click.argument("run", type=RunPath(path_type=Path), shell_complete=complete_folders)
GAMES = click.option(
    "--games",
    metavar="LIST",
    shell_complete=complete_games_of_run,
    help="Comma-separated games of the run.  [default: all]",
)
STAGES = click.option(
    "--stage",
    "stages",
    multiple=True,
    type=WholeNumber(1),
    metavar="N",
    help="Only this stage. Repeatable.  [default: all]",
)
OVERRIDES = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a recipe setting, as in ppo.learning_rate=1e-4; none unsets it. Repeatable.",
)
NEW_RUN = click.option(
    "--out",
    type=click.Path(path_type=Path),
    shell_complete=complete_folders,
    metavar="FOLDER",
    help="New run folder.  [default: a new folder below runs/]",
)
TRUST = click.option(
    "--trust",
    is_flag=True,
    help="Allow importing the packages and wrappers that the recipe or run names, which runs their code. Remembered "
    "for later commands and for all files that name the same packages or wrappers.",
)
ACTIONS_CHOICE = click.option(
    "--stochastic/--greedy",
    default=None,
    help="Sample actions or take the most probable one.  [default: as in the run's recipe]",
)


def workers_option(results: str) -> Callable[[Verb], Verb]:
    """Return the option ``--workers``; ``results`` names the output that is independent of their number."""
    return click.option(
        "--workers",
        type=WholeNumber(1, MOST_WORKERS),
        metavar="N",
        help=f"Worker processes; {results} do not depend on the number.  [default: one per core for Atari, else 1]",
    )


def games_of_run(run: Path, games: str | None) -> tuple[str, ...] | None:
    """Split the games given on the command line; None for all.

    Raises:
        UserError: not a run folder, or an empty name.
    """
    from blip_rl.storage.paths import check_run

    check_run(run)  # first: the message about the folder says more
    if games is None:
        return None
    from blip_rl.recipes import split_names

    return split_names(games)
