"""Models of sequence recipes and whole runs: typed and frozen; unknown keys are errors, names end in their units.

A sequence recipe (``envs/*.toml``) configures what to learn, in what order; an agent recipe
(:mod:`blip_rl.agent_config`) how. :mod:`blip_rl.recipes` finds, merges and validates them into one ``RunConfig``. A
step is one decision of one environment: with Atari's frame skip of 4, 4 frames.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from blip_rl.agent_config import AgentConfig
from blip_rl.setting_types import (
    Device,
    Fraction,
    PositiveFloat,
    PositiveInt,
    Precision,
    Seed,
    Settings,
    Steps,
    reject_bool,
)
from blip_rl.step_counts import played_steps
from blip_rl.task_schedule import MinatarConfig, Schedule

ALE_EPISODE_FRAMES = 108_000
"""ALE's default limit of an episode, 30 minutes at 60 Hz. Published scores, including random and reference scores, are
measured with it."""


class AtariConfig(Settings):
    """Atari preprocessing. Defaults: that of DQN (Mnih et al. 2015), as in the BLIP paper."""

    frame_skip: Annotated[int, Field(ge=1, le=100), BeforeValidator(reject_bool)] = 4
    """Frames for which each action is repeated; a step is one action."""
    frame_size: Annotated[int, Field(ge=16, le=210), BeforeValidator(reject_bool)] = 84
    """Height and width in pixels to which frames are resized."""
    frame_stack: Annotated[int, Field(ge=1, le=16), BeforeValidator(reject_bool)] = 4
    """Most recent frames that make up an observation."""
    noop_max: Annotated[int, Field(ge=0, le=1000), BeforeValidator(reject_bool)] = 30
    """Largest number of random no-op actions at the start of an episode."""
    fire_on_reset: bool = True
    """Press FIRE at the start of an episode, in games that need it to begin."""
    sticky_action_probability: Fraction = 0.0
    """Probability that the emulator repeats the previous action instead of the chosen one."""
    full_action_space: bool = False
    """All 18 actions in every game instead of those that it uses."""
    lost_life_ends_episode: bool = True
    """End training episodes at the loss of a life. Evaluation always plays whole games."""
    clip_rewards: bool = True
    """Replace training rewards by their sign. Scores are never clipped."""
    max_episode_frames: Annotated[int, Field(ge=1, lt=2**31), BeforeValidator(reject_bool)] = ALE_EPISODE_FRAMES
    """Frames after which an episode ends. Below ALE's default limit, such episodes count as ``truncated``."""


class EvaluationConfig(Settings):
    """When and how tasks are evaluated."""

    episodes: Annotated[int, Field(ge=1, le=100_000), BeforeValidator(reject_bool)] = 10
    """Episodes per task and evaluation."""
    actions: Literal["greedy", "stochastic"] = "greedy"
    """``greedy`` takes the most probable action, ``stochastic`` samples from the policy."""
    every_steps: Steps = 200_000
    """Training steps between periodic evaluations of all tasks seen."""
    max_episode_steps: PositiveInt = 27_000
    """Decisions after which an episode is truncated. Default of a run: ``atari.max_episode_frames`` ÷
    ``atari.frame_skip``, rounded up."""
    periodic_share: PositiveFloat = 1.0
    """Maximum number of evaluation steps per training step since the last periodic evaluation.

    To stay within it, the evaluation plays fewer episodes; episodes are truncated only at four times this limit.
    """
    seed: Annotated[int, Field(ge=0, lt=2**29), BeforeValidator(reject_bool)] = 1_000_003
    """Episode k uses seed 2³⁰ + ``seed`` + k; training seeds are below 2³⁰."""
    before_training: bool = True
    """Evaluate each task once before its first training step, as the start of its learning curve.

    Takes at most the task's share of the steps of a periodic evaluation, and does not affect training.
    """
    unseen_tasks: bool = False
    """Also evaluate tasks that are not learned yet (zero-shot)."""
    gifs: bool = False
    """Log a video of each game to TensorBoard at the end of each task; takes some seconds per game."""


class CheckpointConfig(Settings):
    """When a run is saved during a task; at the end of each task it always is."""

    every_steps: Steps = 200_000
    """Steps of a task between snapshots. All environments are reset at each, so this setting influences the results."""


class ComputeConfig(Settings):
    """How the machine is used. None of these settings changes the algorithm; ``precision`` changes its rounding."""

    environment_groups: Annotated[Literal[1, 2, "auto"], BeforeValidator(reject_bool)] = "auto"
    """Groups of environments that alternate: one steps while the other's actions are computed. ``auto``: 2 on CUDA."""
    capture: Literal["auto", "off"] = "auto"
    """Capture inference and update as CUDA graphs and replay them, if on CUDA and supported by the method."""
    compile: bool = False
    """Fuse the trunk's operations with ``torch.compile``; needs a C++ compiler."""
    precision: Precision = "float32"
    """Precision of the trunk's matrix products and convolutions in collection, update and evaluation. Weights,
    optimizer and Fisher are always float32."""

    def groups(self, device: str, environments: int) -> int:
        """Return the number of environment groups of a task; ``device`` is ``cpu``, ``cuda`` or ``cuda:N``."""
        if self.environment_groups == "auto":
            return min(2 if device.startswith("cuda") else 1, environments)
        return min(self.environment_groups, environments)


class NormalizationConfig(Settings):
    """What is normalised with running statistics, as by stable-baselines3's ``VecNormalize``.

    The statistics are part of the agent: they are saved with it and change only while it trains. Every task has its
    own, which do not change while other tasks are learned; with ``trunk.heads = "shared"`` all tasks have one set.
    """

    normalize_observations: bool = False
    """Subtract the running mean of the observations, divide by their standard deviation and clip to ±10; only for
    vectors of floating-point numbers. Images are always divided by 255 instead."""
    normalize_rewards: bool = False
    """Divide training rewards by the running standard deviation of the discounted return and clip to ±10. Scores are
    always sums of raw rewards."""


class Sections(NormalizationConfig):
    """What ``--set`` can change beside the agent: normalisation, the sections of a sequence recipe, ``compute``."""

    atari: AtariConfig = AtariConfig()
    minatar: MinatarConfig = MinatarConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    compute: ComputeConfig = ComputeConfig()


class SequenceConfig(Schedule, NormalizationConfig):
    """Sequence recipe, what to learn in what order: ``envs/*.toml``."""

    description: str
    """One line for ``blip-rl list``."""
    atari: AtariConfig = AtariConfig()
    """Preprocessing."""
    minatar: MinatarConfig = MinatarConfig()
    """Settings of MinAtar games that their tasks do not set."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Evaluation."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """Snapshots."""
    agent: dict[str, Any] = Field(default_factory=dict)
    """Settings that these tasks need; they override the agent recipe, and ``--set`` overrides both."""


class RunConfig(Schedule, NormalizationConfig):
    """Resolved recipe of a run, as saved in its ``config.toml``."""

    agent_name: str
    """Name of the agent recipe."""
    sequence_name: str
    """Name of the sequence recipe, or the names of the tasks."""
    seed: Seed = 0
    """Random seed (``--seed``)."""
    device: Device = "auto"
    """Torch device (``--device``); ``auto`` uses a GPU if one is available."""
    agent: AgentConfig
    """How to learn."""
    atari: AtariConfig = AtariConfig()
    """Preprocessing."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Evaluation."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """Snapshots."""
    compute: ComputeConfig = ComputeConfig()
    """How the machine is used."""

    @model_validator(mode="after")
    def _room_for_distilling(self) -> Self:
        for stage in range(1, self.stages + 1):
            task = self.task_of(stage)
            if self.learning_steps(stage) < 1:
                raise ValueError(
                    f"task {task.name!r} has steps = {task.steps:,}: expected more than {self.agent.distil.steps:,}, "
                    "the steps that learning = 'distil' uses to distil a task (raise its steps, or lower "
                    "distil.teacher_states and distil.student_states)"
                )
        return self

    def learned_apart(self, stage: int) -> bool:
        """Return whether a stage learns its task in a separate trunk."""
        return self.agent.learning == "distil" and (stage > 1 or self.agent.distil.first_task)

    def learning_steps(self, stage: int) -> int:
        """Return the training steps of a stage: all but those used for distilling."""
        return self.task_of(stage).steps - sum(self._distilled(stage))

    def learned_steps(self, stage: int) -> int:
        """Return :meth:`learning_steps` rounded up to whole rollouts, which are learned from."""
        ppo = self.agent.ppo
        return played_steps(self.learning_steps(stage), ppo.environments, ppo.rollout_steps)

    def played_steps(self, stage: int) -> int:
        """Return the training steps that a stage takes: whole rollouts, and steps for distilling."""
        ppo = self.agent.ppo
        return played_steps(
            self.task_of(stage).steps, ppo.environments, ppo.rollout_steps, distilled=self._distilled(stage)
        )

    @property
    def all_played_steps(self) -> int:
        """Training steps that all stages take; ``total_steps`` is what the recipe asks for."""
        return sum(map(self.played_steps, self.all_stages))

    def rollout_states(self, stage: int) -> int:
        """Return the number of states that a stage keeps to distil on: those of its last rollouts, whole ones."""
        if not self.learned_apart(stage):
            return 0
        rollout = self.agent.ppo.environments * self.agent.ppo.rollout_steps
        return min(-(-self.agent.distil.rollout_states // rollout) * rollout, self.learned_steps(stage))

    def _distilled(self, stage: int) -> tuple[int, ...]:
        distil = self.agent.distil
        return (distil.teacher_states, distil.student_states) if self.learned_apart(stage) else ()
