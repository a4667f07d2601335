"""``blip-rl evaluate``: evaluate the stage checkpoints of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from blip_rl.cli.options import (
    ACTIONS,
    ACTIONS_CHOICE,
    GAMES,
    RUN,
    STAGES,
    TRUST,
    games_of_run,
    workers_option,
)
from blip_rl.cli.values import WholeNumber
from blip_rl.limits import LARGEST_EVALUATION_SEED, MOST_EPISODES


@click.command(short_help="Evaluate the stage checkpoints of a run.")
@RUN
@GAMES
@click.option(
    "--episodes",
    type=WholeNumber(1, MOST_EPISODES),
    metavar="N",
    help="Episodes per game.  [default: as in the run's recipe]",
)
@ACTIONS_CHOICE
@click.option("--zero-shot", is_flag=True, help="Also evaluate games that a stage had not learned yet.")
@STAGES
@workers_option("the scores")
@click.option(
    "--seed",
    type=WholeNumber(0, LARGEST_EVALUATION_SEED),
    metavar="N",
    help="First evaluation seed.  [default: as in the run's recipe]",
)
@TRUST
def evaluate(
    run: Path, games: str | None, stochastic: bool | None, stages: tuple[int, ...], trust: bool, **options: Any
) -> None:
    """Evaluate the stage checkpoints in run folder RUN.

    Prints the score matrix (stage x game) and writes the episodes to scores.csv in RUN.
    """
    from blip_rl.api import viewing

    names, actions = games_of_run(run, games), ACTIONS[stochastic]
    played = viewing.evaluate(
        run, games=names, actions=actions, stages=stages or None, trust=trust, progress=True, **options
    )
    click.echo(played.summary)
