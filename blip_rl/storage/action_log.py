"""The actions that replay the environments of a task to their state when a snapshot was saved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from gymnasium import spaces
from pydantic import BaseModel, Field
from torch import Tensor

from blip_rl.config import RunConfig
from blip_rl.storage import validation
from blip_rl.storage.metadata import Count

Episodes = list[tuple[float, Count]]
"""Return and length of the newest finished episodes."""


class DescribedGames(BaseModel):
    """The part of an :class:`ActionLog` in ``snapshot.json``; its actions are in ``games.safetensors``."""

    seed: Annotated[Count, Field(le=2**31)]
    episodes: Episodes


@dataclass(frozen=True)
class ActionLog:
    """Seed and actions that replay the environments of one task to their current state.

    Attributes:
        seed: Seed of the last reset.
        actions: Actions since that reset, shape (steps, environments, ...).
        episodes: Return and length of the most recent finished episodes.
    """

    seed: int
    actions: np.ndarray
    episodes: Episodes


def action_logs(
    described: list[DescribedGames],
    tensors: dict[str, Tensor],
    tasks: validation.Tasks,
    learned: list[str | None],
    config: RunConfig,
) -> list[ActionLog]:
    """Return the action log of every task being trained.

    Raises:
        LookupError, ValueError: It is malformed or belongs to other games.
    """
    actions_of: dict[str | None, spaces.Space[Any]] = dict(tasks)
    return [
        ActionLog(
            games.seed,
            _checked_actions(tensors[f"actions.{number}"].numpy(), actions_of.get(name), config),
            games.episodes,
        )
        for number, (games, name) in enumerate(zip(described, learned, strict=True))
    ]


def _checked_actions(actions: np.ndarray, action_space: spaces.Space[Any] | None, config: RunConfig) -> np.ndarray:
    """Check actions against the action space, and their number against the steps between two snapshots.

    Raises:
        ValueError: They do not fit.
    """
    ppo = config.agent.ppo
    most = config.checkpoint.every_steps // ppo.environments + ppo.rollout_steps + 1
    if actions.ndim < 2 or actions.shape[1] != ppo.environments or len(actions) > most:
        raise ValueError(f"'actions' is {actions.shape}: expected at most {most:,} for {ppo.environments} environments")
    if len(actions) and isinstance(action_space, spaces.Discrete):
        valid = actions.ndim == 2 and actions.dtype.kind in "iu" and bool((actions < action_space.n).all())
        if not (valid and bool((actions >= 0).all())):
            raise ValueError(f"'actions' has some that are not in {action_space}")
    elif len(actions) and action_space is not None and actions.shape[2:] != action_space.shape:
        raise ValueError(f"'actions' is {actions.shape}: expected {action_space}")
    return actions
