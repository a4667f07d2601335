"""Training steps that the stages of a run take, from its ``config.toml``, which may come from an untrusted source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from blip_rl.step_counts import played_steps

_Count = Annotated[int, Field(strict=True, ge=0, le=10**9)]
_Positive = Annotated[int, Field(strict=True, ge=1, le=10**9)]


class _Ppo(BaseModel):
    environments: _Positive
    rollout_steps: _Positive


class _Distil(BaseModel):
    first_task: bool = True
    teacher_states: _Count
    student_states: _Count


class _Agent(BaseModel):
    """The part of an agent recipe that says how many steps are played; other keys are ignored."""

    ppo: _Ppo
    learning: str = "direct"
    distil: _Distil | None = None

    def played(self, stage: int, steps: int) -> int:
        """Return the steps that a stage takes."""
        distil = self.distil if self.learning == "distil" else None
        apart = distil is not None and (stage > 1 or distil.first_task)
        states = (distil.teacher_states, distil.student_states) if distil is not None and apart else ()
        return played_steps(steps, self.ppo.environments, self.ppo.rollout_steps, distilled=states)


def planned_steps(config: dict[str, Any], steps: Sequence[int]) -> int:
    """Return the training steps that all stages of a run take: tasks are learned in whole rollouts.

    Args:
        config: Content of ``config.toml``.
        steps: Steps of each stage's task in the recipe. Their sum is returned if the agent's settings cannot be read.
    """
    try:
        agent = _Agent.model_validate(config.get("agent"))
    except ValidationError:
        return sum(steps)
    return sum(agent.played(stage, one) for stage, one in enumerate(steps, start=1))
