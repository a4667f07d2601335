"""The scored episodes of a cell of the score matrix, which of them to show, and how to play that one again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np

from blip_rl.config import EvaluationConfig
from blip_rl.evaluation.cells import Cell
from blip_rl.evaluation.episodes import MOST_ENVIRONMENTS, Episode
from blip_rl.records import ScoreRow
from blip_rl.report.scores import chosen_actions

Actions = Literal["greedy", "stochastic"]


@dataclass(frozen=True)
class ScoredCell:
    """Episodes behind one number of the score matrix.

    Attributes:
        seeds: Evaluation seed of each episode, rising.
        episodes: Their outcomes.
    """

    seeds: tuple[int, ...]
    episodes: tuple[Episode, ...]

    @property
    def mean(self) -> float:
        """The number in the score matrix."""
        return float(np.mean([episode.score for episode in self.episodes]))

    def chosen(self, which: str) -> int:
        """Index of the episode to show.

        Args:
            which: ``mean`` for the one whose return is nearest to the mean of all (the lowest seed of several),
                ``best``, or an evaluation seed that is among ``seeds``.
        """
        if which.isdecimal():
            return self.seeds.index(int(which))
        scores = np.array([episode.score for episode in self.episodes])
        return int(np.argmax(scores) if which == "best" else np.argmin(np.abs(scores - self.mean)))

    def replay(self, index: int, evaluation: EvaluationConfig) -> EvaluationConfig:
        """The evaluation that plays an episode again together with those that it was played side by side with.

        A network's outputs depend, in their last bits, on the batch, and sampled actions on everything drawn before.
        So greedy episodes need the block of environments that the episode was in, stochastic ones every block before.

        Args:
            index: Of the episode.
            evaluation: With the cell's kind of actions; its seed and number of episodes are replaced.
        """
        first = index
        while first and self.seeds[first - 1] == self.seeds[first] - 1:
            first -= 1
        after = index + 1
        while after < len(self.seeds) and self.seeds[after] == self.seeds[after - 1] + 1:
            after += 1
        block = first + (index - first) // MOST_ENVIRONMENTS * MOST_ENVIRONMENTS
        begin = block if evaluation.actions == "greedy" else first
        count = min(block + MOST_ENVIRONMENTS, after) - begin
        return evaluation.model_copy(update={"seed": self.seeds[begin], "episodes": count})


def scored_cells(
    rows: Sequence[ScoreRow], recipe: Actions, asked: Actions | None
) -> tuple[Actions, dict[Cell, ScoredCell]]:
    """The cells of the score matrix that ``scores.csv`` has episodes of, all of one kind of actions.

    Args:
        rows: Of ``scores.csv``.
        recipe: The run's choice of actions.
        asked: Another choice that was asked for; None takes the kind that the report takes too.

    Returns:
        The kind, and the cells.
    """
    after = [row for row in rows if row.phase == "after"]
    actions = asked or cast(Actions, chosen_actions(recipe, {row.actions for row in after}))
    found: dict[Cell, dict[int, Episode]] = defaultdict(dict)
    for row in after:
        if row.actions == actions:
            found[Cell(row.stage, row.task)][row.seed] = Episode.of(row)
    return actions, {cell: of_seeds(episodes) for cell, episodes in found.items()}


def of_seeds(episodes: dict[int, Episode]) -> ScoredCell:
    """Episodes by their seeds as a cell."""
    seeds = sorted(episodes)
    return ScoredCell(tuple(seeds), tuple(episodes[seed] for seed in seeds))
