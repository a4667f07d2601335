"""Options for rendering videos; validated before heavy libraries are imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from blip_rl.config import EvaluationConfig, RunConfig
from blip_rl.errors import UserError
from blip_rl.video.encode import check_format

_MAX_EPISODES = 32  # one batch of parallel environments, as in an evaluation
_MAX_SECONDS, _MAX_FPS, _MAX_SCALE = 60.0, 50.0, 8.0


@dataclass(frozen=True)
class RenderOptions:
    """Options for rendering videos.

    Attributes:
        episodes: None: show one of the evaluated episodes of each cell. A number: play so many new episodes and show
            one of them.
        episode: Episode to show: ``mean`` (return nearest to the mean of all), ``best``, or an evaluation seed. A seed
            that does not belong to the episodes is played alone.
        actions: Greedy or sampled actions; None: as in the evaluation.
        seconds: Maximum length of a clip in seconds of game time, from the start of the episode.
        fps: Frames per second.
        scale: Size of a game: 1 is 160 pixels wide. None: 2 for single games, 1 for grids.
        file_format: ``gif``, ``webp`` or ``mp4``.
    """

    episodes: int | None = None
    episode: str = "mean"
    actions: Literal["greedy", "stochastic"] | None = None
    seconds: float = 10.0
    fps: float = 15.0
    scale: float | None = None
    file_format: str = "gif"

    def __post_init__(self) -> None:
        """Validate everything that does not depend on a run.

        Raises:
            UserError: a number out of range, or an unknown value.
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
        """Return the evaluation settings for cells of which no evaluated episode is shown.

        Raises:
            UserError: the seed of the episode is out of range.
        """
        given: dict[str, Any] = {"episodes": self.episodes or config.evaluation.episodes, "actions": actions}
        first = config.evaluation.seed
        if self.episode.isdecimal() and not first <= int(self.episode) < first + given["episodes"]:
            given |= {"seed": int(self.episode), "episodes": 1}
        if given.get("seed", 0) >= 2**29:
            raise UserError(f"episode {self.episode}: expected an evaluation seed from 0 to {2**29 - 1}")
        return EvaluationConfig(**{**config.evaluation.model_dump(), **given})
