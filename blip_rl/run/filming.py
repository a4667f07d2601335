"""One game played for its score, and filmed: the agent plays as in an evaluation, then the game is played again."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from blip_rl.config import EvaluationConfig, RunConfig, TaskConfig
from blip_rl.errors import UserError
from blip_rl.report.gifs import Film
from blip_rl.report.movies import check_format
from blip_rl.run.cells import Cell, CellPlayer
from blip_rl.run.evaluation import FIRST_EVALUATION_SEED, Episode
from blip_rl.tasks.pictures import make_screen, replay

_MOST_EPISODES = 32  # played side by side, which is what makes them the episodes of an evaluation
_MOST_SECONDS, _MOST_FPS, _MOST_SCALE = 60.0, 50.0, 8.0


@dataclass(frozen=True)
class Look:
    """What to show, and how.

    Attributes:
        episodes: Games played for each picture, of which one is shown.
        episode: ``median`` or ``best`` by score, or an evaluation seed. A seed that is none of the episodes' is played
            alone.
        actions: Greedy or sampled; None as in the run's recipe.
        seconds: Of each game, from its beginning, at the game's own speed.
        fps: Pictures a second.
        scale: Size: 1 is 160 pixels for a game. None: 2 for single games, 1 for sheets.
        file_format: gif, webp or mp4.
    """

    episodes: int = 5
    episode: str = "median"
    actions: Literal["greedy", "stochastic"] | None = None
    seconds: float = 10.0
    fps: float = 15.0
    scale: float | None = None
    file_format: str = "gif"

    def __post_init__(self) -> None:
        """Check all that can be checked without a run.

        Raises:
            UserError: a number out of range, or an unknown word.
        """
        if not 1 <= self.episodes <= _MOST_EPISODES:
            raise UserError(f"episodes {self.episodes}: expected 1 to {_MOST_EPISODES}")
        if self.episode not in ("median", "best") and not self.episode.isdecimal():
            raise UserError(f"episode {self.episode!r}: expected median, best, or an evaluation seed such as 1000003")
        for name, most in (("seconds", _MOST_SECONDS), ("fps", _MOST_FPS), ("scale", _MOST_SCALE)):
            value = getattr(self, name)
            if value is not None and not 0 < value <= most:
                raise UserError(f"{name} {value:g}: expected more than 0 and at most {most:g}")
        check_format(self.file_format)

    def evaluation(self, config: RunConfig) -> EvaluationConfig:
        """How the episodes are played.

        Raises:
            UserError: an episode's seed out of range.
        """
        given: dict[str, Any] = {"episodes": self.episodes}
        if self.actions is not None:
            given["actions"] = self.actions
        first = config.evaluation.seed
        if self.episode.isdecimal() and not first <= int(self.episode) < first + self.episodes:
            given |= {"seed": int(self.episode), "episodes": 1}
        if given.get("seed", 0) >= 2**29:
            raise UserError(f"episode {self.episode}: expected an evaluation seed from 0 to {2**29 - 1}")
        return EvaluationConfig(**{**config.evaluation.model_dump(), **given})

    def choose(self, episodes: Sequence[Episode], first_seed: int) -> int:
        """Which of the episodes is shown; of an even number, the median is the lower of the two in the middle."""
        if self.episode.isdecimal():
            return int(self.episode) - first_seed
        order = sorted(range(len(episodes)), key=lambda index: (episodes[index].score, -index))
        return order[-1] if self.episode == "best" else order[(len(order) - 1) // 2]


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
        shown = shown_moments(len(actions), screen.decisions_per_second, self._look.fps, self._look.seconds)
        whole = shown[-1] == len(actions)
        wanted = Counter(shown)  # a picture shown twice is wanted twice
        with closing(replay(screen, actions[: shown[-1]])) as pictures:
            kept = (picture for number, picture in enumerate(pictures) for _ in range(wanted[number]))
            return Film.of(kept, over=whole and not episode.truncated)


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
