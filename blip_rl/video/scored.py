"""Evaluated episodes of a cell of the score matrix: select one to show and repeat it exactly."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from blip_rl.config import EvaluationConfig
from blip_rl.evaluation.cells import Cell
from blip_rl.evaluation.episodes import MOST_ENVIRONMENTS, Episode
from blip_rl.records import Actions, ScoreRow
from blip_rl.reporting.scores import chosen_actions


@dataclass(frozen=True)
class ScoredCell:
    """The episodes behind one value of the score matrix.

    Attributes:
        seeds: Evaluation seeds of the episodes in ascending order.
        episodes: The episodes, in the order of ``seeds``.
    """

    seeds: tuple[int, ...]
    episodes: tuple[Episode, ...]

    @property
    def mean(self) -> float:
        """Mean return: the value in the score matrix."""
        return float(np.mean([episode.score for episode in self.episodes]))

    def chosen(self, which: str) -> int:
        """Return the index of the episode to show.

        Args:
            which: ``mean`` for the return nearest to the mean of all (ties: the lowest seed), ``best`` for the highest
                return, or an evaluation seed in ``seeds``.
        """
        if which.isdecimal():
            return self.seeds.index(int(which))
        scores = np.array([episode.score for episode in self.episodes])
        return int(np.argmax(scores) if which == "best" else np.argmin(np.abs(scores - self.mean)))

    def replay(self, index: int, evaluation: EvaluationConfig) -> EvaluationConfig:
        """Return evaluation settings that repeat an episode exactly.

        The last bits of network outputs depend on the batch, and sampled actions depend on all random numbers drawn
        before. So a greedy episode needs its batch of parallel environments, a stochastic one all earlier batches too.

        Args:
            index: Index of the episode.
            evaluation: Settings with the actions of the cell; seed and number of episodes are replaced.
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
    """Group the episodes of ``scores.csv`` with one kind of actions by cell.

    Args:
        rows: Rows of ``scores.csv``.
        recipe: Kind of actions in the run's recipe.
        asked: Requested kind of actions; None: the kind that the report shows.

    Returns:
        The kind of actions, and the cells.
    """
    after = [row for row in rows if row.phase == "after"]
    actions = asked or chosen_actions(recipe, {row.actions for row in after})
    found: dict[Cell, dict[int, Episode]] = defaultdict(dict)
    for row in after:
        if row.actions == actions:
            found[Cell(row.stage, row.task)][row.seed] = Episode.of(row)
    return actions, {cell: of_seeds(episodes) for cell, episodes in found.items()}


def of_seeds(episodes: dict[int, Episode]) -> ScoredCell:
    """Create a cell from a mapping of seed → episode."""
    seeds = sorted(episodes)
    return ScoredCell(tuple(seeds), tuple(episodes[seed] for seed in seeds))
