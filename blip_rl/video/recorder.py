"""Films of scored episodes: the agent plays as in the evaluation, then the game is played again and filmed."""

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

from blip_rl.config import EvaluationConfig, RunConfig, TaskConfig
from blip_rl.evaluation.cells import Cell, CellPlayer
from blip_rl.evaluation.episodes import FIRST_EVALUATION_SEED, ActionLog, Episode
from blip_rl.tasks.pictures import Frame, make_screen, replay
from blip_rl.video.grid import Clip
from blip_rl.video.options import RenderOptions
from blip_rl.video.scored import Actions, ScoredCell

_STILL_SECONDS = 0.5  # of the still picture that Kung-Fu Master shows for four


@dataclass(frozen=True)
class RecordedCell:
    """A film of one cell.

    Attributes:
        cell: Which game, after which stage.
        clip: The beginning of one of its episodes.
        score: Return of that whole episode, as it was played for the film.
        mean: Mean return of all the cell's episodes.
        episodes: How many these are.
        scored: Whether they are those of ``scores.csv``.
        expected: What ``scores.csv`` has for the episode, where playing it again came to another end; else None.
    """

    cell: Cell
    clip: Clip
    score: float
    mean: float
    episodes: int
    scored: bool
    expected: float | None = None


class RecordingPlayer(CellPlayer[RecordedCell]):
    """Plays the episode of a cell that is to be shown, then the same game once more where it can be seen."""

    def __init__(
        self, run: Path, config: RunConfig, options: RenderOptions, actions: Actions, scored: Mapping[Cell, ScoredCell]
    ) -> None:
        """Plan what to play.

        Args:
            run: The run folder.
            config: The run's.
            options: What to show.
            actions: How episodes are played.
            scored: The cells that have scored episodes with these actions.
        """
        super().__init__(run, config, options.evaluation(config, actions))
        self._options = options
        self._scored = {cell: found for cell, found in scored.items() if _has(found, options)}

    def evaluation_for(self, cell: Cell) -> EvaluationConfig:
        """The scored episode that is shown and those beside it; without scores, episodes as asked for."""
        found = self._scored.get(cell)
        return self.evaluation if found is None else found.replay(found.chosen(self._options.episode), self.evaluation)

    def play(self, cell: Cell, on_games_over: Callable[[int], object]) -> RecordedCell:
        """Play and film."""
        log, evaluation = ActionLog(), self.evaluation_for(cell)
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
    """Whether what is asked for is one of the scored episodes."""
    return options.episodes is None and (not options.episode.isdecimal() or int(options.episode) in found.seeds)


def record_game(
    task: TaskConfig, config: RunConfig, options: RenderOptions, seed: int, actions: Sequence[Any], episode: Episode
) -> Clip:
    """Play a game again, from its seed and actions, and keep its first pictures.

    Args:
        task: The game.
        config: Preprocessing.
        options: How much to show.
        seed: Evaluation seed of the episode.
        actions: All that were taken in it.
        episode: How it ended.
    """
    screen = make_screen(task, config.atari, FIRST_EVALUATION_SEED + seed)
    begin = _begin(task, config, seed, actions, screen.decisions_per_second)
    shown = [
        begin + moment
        for moment in shown_moments(len(actions) - begin, screen.decisions_per_second, options.fps, options.seconds)
    ]
    whole = shown[-1] == len(actions)
    wanted = Counter(shown)  # a picture shown twice is wanted twice
    with closing(replay(screen, actions[: shown[-1]])) as pictures:
        kept = (picture for number, picture in enumerate(pictures) for _ in range(wanted[number]))
        return Clip.of(kept, over=whole and not episode.truncated)


def _begin(task: TaskConfig, config: RunConfig, seed: int, actions: Sequence[Any], decisions_per_second: float) -> int:
    """After how many decisions the film begins: a game that shows a still picture first is joined at its end."""
    screen = make_screen(task, config.atari, FIRST_EVALUATION_SEED + seed)
    with closing(replay(screen, actions)) as pictures:
        return max(0, still_decisions(pictures) - round(_STILL_SECONDS * decisions_per_second))


def still_decisions(pictures: Iterable[Frame]) -> int:
    """How many decisions leave the first picture as it is; 0 if nothing ever moves."""
    iterator = iter(pictures)
    first = next(iterator)
    for number, picture in enumerate(iterator):
        if not np.array_equal(picture, first):
            return number
    return 0


def shown_moments(decisions: int, decisions_per_second: float, fps: float, seconds: float) -> list[int]:
    """After how many decisions each picture of a film is taken: evenly spread, so that time runs as in the game.

    Args:
        decisions: Of the whole game.
        decisions_per_second: Of the game at its own speed.
        fps: Pictures a second. More than decisions a second repeat pictures.
        seconds: Length of the film; the end of a game that is shorter is always its last picture.
    """
    count = max(1, round(seconds * fps))
    shown = [math.floor(number * decisions_per_second / fps + 1e-9) for number in range(count)]
    if shown[-1] < decisions:
        return shown
    return [*itertools.takewhile(lambda moment: moment < decisions, shown), decisions]
