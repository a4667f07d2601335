"""``blip-rl evaluate``: score every stage of a run again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from blip_rl.cli.options import ACTIONS, ACTIONS_CHOICE, GAMES, RUN, STAGES, games_of_run, loading, workers_option


@click.command(short_help="Score every stage of a run again.")
@RUN
@GAMES
@click.option("--episodes", type=click.IntRange(min=1), metavar="N", help="For each game.  [default: the run's]")
@ACTIONS_CHOICE
@click.option("--zero-shot", is_flag=True, help="Also play games that a stage had not learned yet.")
@STAGES
@workers_option("the scores")
@click.option(
    "--seed", type=click.IntRange(0, 2**29 - 1), metavar="N", help="First evaluation seed.  [default: the run's]"
)
def evaluate(run: Path, games: str | None, stochastic: bool | None, stages: tuple[int, ...], **options: Any) -> None:
    """Score every stage of the run in folder RUN again: fill or extend its score matrix."""
    names = games_of_run(run, games)
    with loading():
        from blip_rl.evaluation.rescore import evaluate_run

    click.echo(evaluate_run(run, games=names, actions=ACTIONS[stochastic], stages=stages or None, **options))
