"""What a run learned, lost and relearned in each of its stages; a stage is one visit to a game."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from blip_rl.core import visit_metrics
from blip_rl.core.transfer import area_under_curve
from blip_rl.records import mean_returns
from blip_rl.reporting.run_record import RunRecord
from blip_rl.reporting.scores import Array, RunScores, is_normalised


@dataclass(frozen=True)
class StageValues:
    """Metrics of each stage of one run, (stages,) each; NaN where not measured.

    Scores are normalised; those of a game without normalisers are raw returns.

    Attributes:
        normalised: Whether the game of the stage has normalised scores.
        learned: Score just after the stage, on its game.
        forgotten: Score after the game's previous visit − score before this one; NaN for first visits.
        relearning_steps: Training steps until the score after the previous visit was reached again; NaN if never.
        visit_steps: Training steps of the stage up to its last evaluation.
        stability_gap: Score just after the stage − lowest score on its game during the next stage.
        area: Area under the normalised score on the game during the stage.
        training_return: Mean raw return of the training episodes that ended in the stage.
    """

    normalised: npt.NDArray[np.bool_]
    learned: Array
    forgotten: Array
    relearning_steps: Array
    visit_steps: Array
    stability_gap: Array
    area: Array
    training_return: Array


def stage_values(run: RunRecord) -> StageValues | None:
    """Compute the metrics of the stages that a run has learned; None without scores."""
    return None if run.scores is None else _StageScores(run, run.scores).values()


class _StageScores:
    """Scores of a run on one scale per game, and its curves within single stages."""

    def __init__(self, run: RunRecord, scores: RunScores) -> None:
        self._run, self._scores, self._visits = run, scores, scores.visits
        self._normalised = np.array([is_normalised(scores, task) for task in range(len(scores.tasks))], dtype=bool)
        self._after = np.where(self._normalised, scores.after_normalised, scores.after)
        self._before = np.where(self._normalised, scores.before_normalised, scores.before)
        self._training_returns = mean_returns(run.returns)

    def values(self) -> StageValues:
        """Compute every metric; NaN for stages that are not learned."""
        stages, visits = range(1, len(self._visits) + 1), list(self._visits)
        normalised = self._normalised[visits]
        learned = np.array([self._after[stage - 1, visits[stage - 1]] for stage in stages])
        training = [self._training_curve(stage) for stage in stages]
        areas = [area_under_curve(*curve) for curve in training]
        return StageValues(
            normalised,
            learned,
            self._forgotten(),
            relearning_steps=np.array([self._relearning_steps(stage, training[stage - 1]) for stage in stages]),
            visit_steps=np.array([steps[-1] if steps.size else np.nan for steps, _ in training]),
            stability_gap=np.array([self._stability_gap(stage) for stage in stages]),
            area=np.where(normalised, areas, np.nan),
            training_return=np.array([self._training_return(stage) for stage in stages]),
        )

    def _forgotten(self) -> Array:
        """Return forgetting between visits, (stages,)."""
        found = np.full(len(self._visits), np.nan)
        if learned := self._run.learned:
            visits = self._visits[:learned]
            matrix = self._after[:learned, : 1 + max(visits)]
            found[:learned] = visit_metrics.forgetting_between_visits(matrix, visits)
        return found

    def _training_curve(self, stage: int) -> tuple[Array, Array]:
        """Return (steps since its start, scores on its game) of a learned stage; empty if its start is unknown."""
        start = 0 if stage == 1 else self._run.boundaries.get(stage - 1)
        if start is None or stage > self._run.learned:
            return np.empty(0), np.empty(0)
        steps, scores = self._curve(self._visits[stage - 1], stage, start - 1)
        steps = steps - start
        if stage > 1 and not (steps.size and steps[0] == 0):
            # A game that comes back was last scored at the end of the stage before.
            known = self._after[stage - 2, self._visits[stage - 1]]
            if np.isfinite(known):
                steps, scores = np.append(0.0, steps), np.append(known, scores)
        return steps, scores

    def _curve(self, task: int, stage: int, after: int) -> tuple[Array, Array]:
        """Return (steps, scores) of the evaluations of a task in a stage, later than ``after`` steps."""
        curve = self._scores.curves[task].during(stage).later_than(after)
        return curve.env_steps.astype(np.float64), curve.normalised if self._normalised[task] else curve.mean_return

    def _relearning_steps(self, stage: int, curve: tuple[Array, Array]) -> float:
        earlier = [at for at, task in enumerate(self._visits[: stage - 1]) if task == self._visits[stage - 1]]
        if not earlier:
            return float("nan")
        return visit_metrics.relearning_steps(*curve, float(self._after[earlier[-1], self._visits[stage - 1]]))

    def _stability_gap(self, stage: int) -> float:
        task = self._visits[stage - 1]
        if stage >= self._run.learned or self._visits[stage] == task:
            return float("nan")
        before = self._before[stage, [task]]
        _, during = self._curve(task, stage + 1, self._run.boundaries.get(stage, 0))
        scores = np.append(during, before[np.isfinite(before)])
        return visit_metrics.stability_gap(float(self._after[stage - 1, task]), scores)

    def _training_return(self, stage: int) -> float:
        return self._training_returns.get((stage, self._scores.tasks[self._visits[stage - 1]]), float("nan"))
