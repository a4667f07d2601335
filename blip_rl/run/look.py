"""What a film shows of a game, and how; checked before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from blip_rl.config import EvaluationConfig, RunConfig
from blip_rl.errors import UserError
from blip_rl.report.movies import check_format

if TYPE_CHECKING:
    from blip_rl.run.evaluation import Episode

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
