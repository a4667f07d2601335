"""Record clips of evaluated episodes.

The evaluation is repeated to obtain the actions; then the episode is replayed from seed and actions with rendering on.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blip_rl.config import EvaluationConfig, RunConfig
from blip_rl.evaluation.cells import Cell, CellPlayer
from blip_rl.evaluation.episodes import Episode, EpisodeActions
from blip_rl.records import Actions
from blip_rl.task_schedule import TaskConfig
from blip_rl.tasks.pictures import Frame, make_screen, replay
from blip_rl.tasks.seeds import FIRST_EVALUATION_SEED
from blip_rl.video.grid import Clip
from blip_rl.video.options import RenderOptions
from blip_rl.video.scored import ScoredCell

_STILL_SECONDS = 0.5  # of a still title screen; that of Kung-Fu Master lasts four seconds


@dataclass(frozen=True)
class RecordedCell:
    """A recorded cell of the score matrix.

    Attributes:
        cell: Stage and game.
        clip: The beginning of one episode.
        score: Return of the whole recorded episode.
        mean: Mean return of all episodes of the cell.
        episodes: Number of these episodes.
        scored: Whether the episodes are those of ``scores.csv``.
        expected: Return of the episode in ``scores.csv`` if the repeated episode differs from it; else None.
    """

    cell: Cell
    clip: Clip
    score: float
    mean: float
    episodes: int
    scored: bool
    expected: float | None = None


class RecordingPlayer(CellPlayer[RecordedCell]):
    """Play a cell, select the episode to show and record it in a replay."""

    def __init__(
        self, run: Path, config: RunConfig, options: RenderOptions, actions: Actions, scored: Mapping[Cell, ScoredCell]
    ) -> None:
        """Create a player.

        Args:
            run: The run folder.
            config: Configuration of the run.
            options: Options for rendering.
            actions: Greedy or sampled actions.
            scored: Evaluated episodes with these actions, by cell.
        """
        super().__init__(run, config, options.evaluation(config, actions))
        self._options = options
        self._scored = {cell: found for cell, found in scored.items() if _has(found, options)}

    def evaluation_for(self, cell: Cell) -> EvaluationConfig:
        """Return settings that repeat the batch of the evaluated episode or, without one, play new episodes."""
        found = self._scored.get(cell)
        return self.evaluation if found is None else found.replay(found.chosen(self._options.episode), self.evaluation)

    def play(self, cell: Cell, on_games_over: Callable[[int], object]) -> RecordedCell:
        """Play a cell and record one of its episodes."""
        log, evaluation = EpisodeActions(), self.evaluation_for(cell)
        episodes = self._episodes(cell, on_games_over, log)
        found = self._scored.get(cell)
        of = found or ScoredCell(tuple(evaluation.seed + number for number in range(len(episodes))), tuple(episodes))
        index = of.chosen(self._options.episode)
        number = of.seeds[index] - evaluation.seed
        expected = None if episodes[number] == of.episodes[index] else of.episodes[index].score
        if expected is not None and self._options.episode == "mean":
            number = int(np.argmin([abs(episode.score - of.mean) for episode in episodes]))
        played = episodes[number]
        clip = record_game(
            self.task(cell), self.config, self._options, evaluation.seed + number, log.games[number], played
        )
        return RecordedCell(cell, clip, played.score, of.mean, len(of.episodes), found is not None, expected)


def _has(found: ScoredCell, options: RenderOptions) -> bool:
    """Return whether the options select one of the evaluated episodes."""
    return options.episodes is None and (not options.episode.isdecimal() or int(options.episode) in found.seeds)


def record_game(
    task: TaskConfig, config: RunConfig, options: RenderOptions, seed: int, actions: Sequence[Any], episode: Episode
) -> Clip:
    """Replay an episode from its seed and actions and record its beginning.

    Args:
        task: The task.
        config: Preprocessing settings.
        options: Length and frame rate of the clip.
        seed: Evaluation seed of the episode.
        actions: All actions of the episode.
        episode: Outcome of the episode.
    """
    screen = make_screen(task, config.atari, FIRST_EVALUATION_SEED + seed)
    begin = _begin(task, config, seed, actions, screen.decisions_per_second)
    shown = [
        begin + moment
        for moment in shown_moments(len(actions) - begin, screen.decisions_per_second, options.fps, options.seconds)
    ]
    whole = shown[-1] == len(actions)
    wanted = Counter(shown)  # a frame can occur more than once
    with closing(replay(screen, actions[: shown[-1]])) as pictures:
        kept = (picture for number, picture in enumerate(pictures) for _ in range(wanted[number]))
        return Clip.of(kept, over=whole and not episode.truncated)


def _begin(task: TaskConfig, config: RunConfig, seed: int, actions: Sequence[Any], decisions_per_second: float) -> int:
    """Return the number of steps to skip: a clip starts half a second before the end of a still title screen."""
    screen = make_screen(task, config.atari, FIRST_EVALUATION_SEED + seed)
    with closing(replay(screen, actions)) as pictures:
        return max(0, still_decisions(pictures) - round(_STILL_SECONDS * decisions_per_second))


def still_decisions(pictures: Iterable[Frame]) -> int:
    """Return the number of steps before the first change of the frame; 0 if the frames never change."""
    iterator = iter(pictures)
    first = next(iterator)
    for number, picture in enumerate(iterator):
        if not np.array_equal(picture, first):
            return number
    return 0


def shown_moments(decisions: int, decisions_per_second: float, fps: float, seconds: float) -> list[int]:
    """Return the step at which each frame of a clip is taken, so that the clip runs at the speed of the game.

    Args:
        decisions: Steps of the whole episode.
        decisions_per_second: Steps per second at the speed of the game.
        fps: Frames per second. Frames repeat if it is larger than ``decisions_per_second``.
        seconds: Maximum length of the clip. If the episode is shorter, its last frame is the last one of the clip.
    """
    count = max(1, round(seconds * fps))
    shown = [math.floor(number * decisions_per_second / fps + 1e-9) for number in range(count)]
    if shown[-1] < decisions:
        return shown
    return [*itertools.takewhile(lambda moment: moment < decisions, shown), decisions]
