"""Options for rendering videos; validated before heavy libraries are imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from blip_rl.config import EvaluationConfig, RunConfig
from blip_rl.errors import UserError
from blip_rl.limits import (
    LARGEST_EVALUATION_SEED,
    LARGEST_SCALE,
    LEAST_FPS,
    LONGEST_VIDEO_SECONDS,
    MOST_FPS,
    MOST_VIDEO_EPISODES,
)
from blip_rl.video.encode import check_format

_LONGEST_VALUE = 80  # characters of a wrong value in a message


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
        if self.episodes is not None and not 1 <= self.episodes <= MOST_VIDEO_EPISODES:
            raise UserError(f"episodes {self.episodes}: expected 1 to {MOST_VIDEO_EPISODES}")
        if self.episode not in ("mean", "best") and not _is_seed(self.episode):
            raise UserError(
                f"episode {self.episode[:_LONGEST_VALUE]!r}: expected mean, best, or an evaluation seed from 0 to "
                f"{LARGEST_EVALUATION_SEED:,}, such as 1000003"
            )
        for name, most in (("seconds", LONGEST_VIDEO_SECONDS), ("fps", MOST_FPS), ("scale", LARGEST_SCALE)):
            value = getattr(self, name)
            if value is not None and not 0 < value <= most:
                raise UserError(f"{name} {value:g}: expected more than 0 and at most {most:g}")
        if self.fps < LEAST_FPS:
            raise UserError(f"fps {self.fps:g}: expected at least {LEAST_FPS:g}")
        check_format(self.file_format)

    def evaluation(self, config: RunConfig, actions: Literal["greedy", "stochastic"]) -> EvaluationConfig:
        """Return the evaluation settings for cells of which no evaluated episode is shown."""
        given: dict[str, Any] = {"episodes": self.episodes or config.evaluation.episodes, "actions": actions}
        first = config.evaluation.seed
        if self.episode.isdecimal() and not first <= int(self.episode) < first + given["episodes"]:
            given |= {"seed": int(self.episode), "episodes": 1}
        return EvaluationConfig(**{**config.evaluation.model_dump(), **given})


def _is_seed(text: str) -> bool:
    digits = text.isascii() and text.isdecimal() and len(text) <= len(str(LARGEST_EVALUATION_SEED))
    return digits and int(text) <= LARGEST_EVALUATION_SEED
