"""One game played for its score, and filmed: the agent plays as in an evaluation, then the game is played again."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from blip_rl.config import RunConfig, TaskConfig
from blip_rl.report.gifs import Film
from blip_rl.run.cells import Cell, CellPlayer
from blip_rl.run.evaluation import FIRST_EVALUATION_SEED, Episode
from blip_rl.run.look import Look
from blip_rl.tasks.pictures import Picture, make_screen, replay

_STILL_SECONDS = 0.5  # of the still picture that Kung-Fu Master shows for four


@dataclass(frozen=True)
class Take:
    """A film of one cell, and the score of the whole game."""

    cell: Cell
    film: Film
    score: float


class FilmingPlayer(CellPlayer[Take]):
    """Plays a cell's episodes, then plays the chosen one again where it can be seen."""

    def __init__(self, run: Path, config: RunConfig, look: Look) -> None:
        super().__init__(run, config, look.evaluation(config))
        self._look = look

    def play(self, cell: Cell, on_games_over: Callable[[int], object]) -> Take:
        """Play and film."""
        actions: list[list[Any]] = [[] for _ in range(self.evaluation.episodes)]

        def note(playing: npt.NDArray[np.int64], taken: npt.NDArray[Any]) -> None:
            for number, action in zip(playing, taken, strict=True):
                actions[number].append(action)

        episodes = self._episodes(cell, on_games_over, note)
        chosen = self._look.choose(episodes, self.evaluation.seed)
        film = self._film(self.task(cell), self.evaluation.seed + chosen, actions[chosen], episodes[chosen])
        return Take(cell, film, episodes[chosen].score)

    def _film(self, task: TaskConfig, seed: int, actions: list[Any], episode: Episode) -> Film:
        screen = make_screen(task, self.config.atari, FIRST_EVALUATION_SEED + seed)
        begin = self._begin(task, seed, actions, screen.decisions_per_second)
        shown = [
            begin + moment
            for moment in shown_moments(
                len(actions) - begin, screen.decisions_per_second, self._look.fps, self._look.seconds
            )
        ]
        whole = shown[-1] == len(actions)
        wanted = Counter(shown)  # a picture shown twice is wanted twice
        with closing(replay(screen, actions[: shown[-1]])) as pictures:
            kept = (picture for number, picture in enumerate(pictures) for _ in range(wanted[number]))
            return Film.of(kept, over=whole and not episode.truncated)

    def _begin(self, task: TaskConfig, seed: int, actions: list[Any], decisions_per_second: float) -> int:
        """After how many decisions the film begins: a game that shows a still picture first is joined at its end."""
        screen = make_screen(task, self.config.atari, FIRST_EVALUATION_SEED + seed)
        with closing(replay(screen, actions)) as pictures:
            return max(0, still_decisions(pictures) - round(_STILL_SECONDS * decisions_per_second))


def still_decisions(pictures: Iterable[Picture]) -> int:
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
