"""What a film shows of a game, and how; checked before anything heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from blip_rl.config import EvaluationConfig, RunConfig
from blip_rl.errors import UserError
from blip_rl.video.encode import check_format

_MAX_EPISODES = 32  # played side by side, which is what makes them the episodes of an evaluation
_MAX_SECONDS, _MAX_FPS, _MAX_SCALE = 60.0, 50.0, 8.0


@dataclass(frozen=True)
class RenderOptions:
    """What to show, and how.

    Attributes:
        episodes: None shows one of the scored episodes of each cell. A number plays as many now and shows one of them.
        episode: ``mean`` (the return nearest to the mean of all), ``best``, or an evaluation seed. A seed that is none
            of the episodes' is played alone.
        actions: Greedy or sampled; None as the scores were taken.
        seconds: Of each game, from its beginning, at the game's own speed.
        fps: Pictures a second.
        scale: Size: 1 is 160 pixels for a game. None: 2 for single games, 1 for sheets.
        file_format: gif, webp or mp4.
    """

    episodes: int | None = None
    episode: str = "mean"
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
        if self.episodes is not None and not 1 <= self.episodes <= _MAX_EPISODES:
            raise UserError(f"episodes {self.episodes}: expected 1 to {_MAX_EPISODES}")
        if self.episode not in ("mean", "best") and not self.episode.isdecimal():
            raise UserError(f"episode {self.episode!r}: expected mean, best, or an evaluation seed such as 1000003")
        for name, most in (("seconds", _MAX_SECONDS), ("fps", _MAX_FPS), ("scale", _MAX_SCALE)):
            value = getattr(self, name)
            if value is not None and not 0 < value <= most:
                raise UserError(f"{name} {value:g}: expected more than 0 and at most {most:g}")
        check_format(self.file_format)

    def evaluation(self, config: RunConfig, actions: Literal["greedy", "stochastic"]) -> EvaluationConfig:
        """How episodes are played where none of the scored ones is shown.

        Raises:
            UserError: an episode's seed out of range.
        """
        given: dict[str, Any] = {"episodes": self.episodes or config.evaluation.episodes, "actions": actions}
        first = config.evaluation.seed
        if self.episode.isdecimal() and not first <= int(self.episode) < first + given["episodes"]:
            given |= {"seed": int(self.episode), "episodes": 1}
        if given.get("seed", 0) >= 2**29:
            raise UserError(f"episode {self.episode}: expected an evaluation seed from 0 to {2**29 - 1}")
        return EvaluationConfig(**{**config.evaluation.model_dump(), **given})
