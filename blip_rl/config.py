"""Recipe models: typed, frozen, with units in their names; an unknown key is an error.

Two kinds of recipe exist. An agent recipe (``agents/*.toml``) says HOW to learn, a sequence recipe (``envs/*.toml``)
says WHAT to learn and in what order. :mod:`blip_rl.recipes` finds, merges and validates them into one ``RunConfig``.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

_LONGEST_STEP_COUNT = 40  # characters; a recipe may come from a stranger, and the pattern backtracks
_STEP_SUFFIXES = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000, "b": 1_000_000_000}


def parse_steps(value: object) -> int:
    """Read a step count: ``50000``, ``"500k"``, ``"10M"``, ``"1e6"``, ``"2_000"``.

    Raises:
        ValueError: not a number, not a whole number, or below 1.
    """
    rule = "expected a whole number of steps of at least 1, for example 500000, 500k, 10M or 1e6"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{value!r}: {rule}")
    text = str(value).strip()
    match = re.fullmatch(r"([-+]?[\d_]*\.?\d+(?:[eE][-+]?\d{1,3})?)\s*([kKmMgGbB]?)", text[:_LONGEST_STEP_COUNT])
    if match is None or len(text) > _LONGEST_STEP_COUNT:
        raise ValueError(f"{value!r}: {rule}")
    steps = float(match[1].replace("_", "")) * _STEP_SUFFIXES[match[2].lower()]
    if steps < 1 or steps > 1e15 or steps != int(steps):
        raise ValueError(f"{value!r}: {rule}")
    return int(steps)


def _no_bool(value: object) -> object:
    """Refuse ``true`` where a number belongs: Python, and so pydantic, would take it for 1."""
    if isinstance(value, bool):
        raise ValueError(f"{value!r}: expected a number")
    return value


Steps = Annotated[int, BeforeValidator(parse_steps)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0), BeforeValidator(_no_bool)]
PositiveFloat = Annotated[float, Field(gt=0.0, allow_inf_nan=False), BeforeValidator(_no_bool)]
NonNegativeFloat = Annotated[float, Field(ge=0.0, allow_inf_nan=False), BeforeValidator(_no_bool)]
PositiveInt = Annotated[int, Field(ge=1), BeforeValidator(_no_bool)]
Seed = Annotated[int, Field(ge=0, lt=2**30), BeforeValidator(_no_bool)]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$", description="auto, cpu, cuda or cuda:N")]
Units = Annotated[int, Field(ge=1, le=65_536), BeforeValidator(_no_bool)]
Kernel = Annotated[int, Field(ge=1, le=210), BeforeValidator(_no_bool)]
Activation = Literal["relu", "tanh", "elu", "silu"]
Precision = Literal["float32", "tf32", "bfloat16"]


class Settings(BaseModel):
    """Base of every recipe section: immutable, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)


class PpoConfig(Settings):
    """Proximal policy optimisation (Schulman et al. 2017). A step is one decision of one environment."""

    environments: Annotated[int, Field(ge=1, le=4096), BeforeValidator(_no_bool)]
    rollout_steps: Annotated[int, Field(ge=1, le=1_000_000), BeforeValidator(_no_bool)]
    minibatches: PositiveInt
    epochs: Annotated[int, Field(ge=1, le=1000), BeforeValidator(_no_bool)]
    learning_rate: PositiveFloat
    learning_rate_schedule: Literal["linear", "constant"]
    clip_range: PositiveFloat
    clip_range_value: PositiveFloat | None = None
    entropy_coefficient: NonNegativeFloat
    value_coefficient: NonNegativeFloat
    discount: Fraction
    gae_lambda: Fraction
    max_gradient_norm: PositiveFloat
    adam_epsilon: PositiveFloat
    value_loss: Literal["clipped", "max"] = "clipped"
    """With ``clip_range_value``: the squared error of the clipped value, as in stable-baselines3, or the larger of the
    errors of the clipped and the unclipped value, sample by sample, as in openai/baselines."""
    value_loss_scale: PositiveFloat = 1.0
    """Factor of the mean squared error of the values, before ``value_coefficient``; openai/baselines has 0.5."""
    normalize_advantage: Literal["minibatch", "rollout"] = "minibatch"
    """Over which samples advantages get mean 0 and standard deviation 1."""

    @model_validator(mode="after")
    def _value_loss_is_defined(self) -> Self:
        if self.value_loss == "max" and self.clip_range_value is None:
            raise ValueError(
                "value_loss = 'max' without clip_range_value: expected a clip_range_value, because it takes the larger "
                "of the losses of the clipped and the unclipped value (set one, or value_loss = 'clipped')"
            )
        return self

    @model_validator(mode="after")
    def _whole_minibatches(self) -> Self:
        rollout = self.environments * self.rollout_steps
        if rollout % self.minibatches or rollout // self.minibatches < 2:
            raise ValueError(
                f"minibatches = {self.minibatches}: expected a divisor of environments × rollout_steps = {rollout} "
                "that leaves at least 2 steps in each"
            )
        return self


class ImageTrunkConfig(Settings):
    """Convolutions, then fully connected layers, over stacked frames."""

    conv: Annotated[tuple[tuple[Units, Kernel, Kernel], ...], Field(min_length=1, max_length=32)]
    """One (channels, kernel, stride) for each layer, no padding."""
    hidden: Annotated[tuple[Units, ...], Field(min_length=1, max_length=32)]
    activation: Activation


class VectorTrunkConfig(Settings):
    """Fully connected layers over a vector of observations."""

    hidden: Annotated[tuple[Units, ...], Field(min_length=1, max_length=32)]
    activation: Activation


class TrunkConfig(Settings):
    """The layers that all tasks share; the first task's observations decide which of the two is built."""

    image: ImageTrunkConfig
    vector: VectorTrunkConfig
    task_modulation: bool
    """A learned scale and shift for each unit and task on each trunk layer's output."""


class DistilConfig(Settings):
    """How a task learned in a trunk of its own is distilled into the shared trunk (``learning = "distil"``)."""

    start: Literal["fresh", "shared"] = "fresh"
    """Initial weights of the task's own trunk: newly initialised, or a copy of the shared trunk."""
    first_task: bool = True
    """Whether the first task is learned apart, too. PPO leaves many units saturated; the weights that feed them have no
    Fisher information, and a method that goes by it leaves them free to destroy the task. A distilled trunk has few."""
    teacher_states: PositiveInt = 4_096
    """States to distil on that the learned policy, the teacher, plays; they count as steps of the task."""
    student_states: Annotated[int, Field(ge=0), BeforeValidator(_no_bool)] = 4_096
    """States to distil on that the student plays after half of the updates, for the teacher to label; they count as
    steps of the task. 0: the teacher's states only."""
    updates: PositiveInt = 1_500
    """Optimizer steps: half on the teacher's states, half on all; all on the teacher's if the student plays none."""
    minibatch: PositiveInt = 256
    """States in each optimizer step, drawn with replacement."""
    learning_rate: PositiveFloat = 3e-3
    """Adam's at the start of each half; it decreases linearly to 0 within the half."""

    @property
    def steps(self) -> int:
        """Steps of a task that are played for distilling instead of learning."""
        return self.teacher_states + self.student_states


class AgentConfig(Settings):
    """How to learn: ``agents/*.toml``."""

    description: str
    learning: Literal["direct", "distil"] = "direct"
    """Where tasks are learned: in the shared trunk, or unprotected in a trunk of their own, from which the policy is
    then distilled into the shared trunk under the method's protection."""
    ppo: PpoConfig
    trunk: TrunkConfig
    method: dict[str, Any]
    """``name`` and that method's own settings, validated by the method itself."""
    distil: DistilConfig = DistilConfig()
    """Used with ``learning = "distil"`` only."""


ALE_EPISODE_FRAMES = 108_000
"""ALE's own limit of a game, 30 minutes of play: the default of all its environments, under which published scores,
random and reference scores among them, were measured."""


class AtariConfig(Settings):
    """How the emulator's frames become observations. Defaults: DQN preprocessing as in the BLIP paper."""

    frame_skip: Annotated[int, Field(ge=1, le=100), BeforeValidator(_no_bool)] = 4
    frame_size: Annotated[int, Field(ge=16, le=210), BeforeValidator(_no_bool)] = 84
    frame_stack: Annotated[int, Field(ge=1, le=16), BeforeValidator(_no_bool)] = 4
    noop_max: Annotated[int, Field(ge=0, le=1000), BeforeValidator(_no_bool)] = 30
    fire_on_reset: bool = True
    sticky_action_probability: Fraction = 0.0
    full_action_space: bool = False
    lost_life_ends_episode: bool = True
    clip_rewards: bool = True
    max_episode_frames: Annotated[int, Field(ge=1, lt=2**31), BeforeValidator(_no_bool)] = ALE_EPISODE_FRAMES
    """Below the default, which is ALE's own limit, games that reach it count as cut off (``truncated``)."""


_NAME_RULE = "a name of at most 80 letters, digits and _ . : - that starts with a letter or digit"
_REFERENCE_RULE = "at most 80 characters, none of them a control character"
_ReferenceName = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]*$", max_length=80, description=_REFERENCE_RULE)]


class TaskConfig(Settings):
    """One task of a sequence: a game, how long to learn it, and the scores that normalise it."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]*$", max_length=80, description=_NAME_RULE)]
    game: str
    """An ALE ROM name (``kung_fu_master``) or a Gymnasium id (``CartPole-v1``), in any spelling that names one game."""
    title: str = ""
    steps: Steps = 10_000_000
    random_score: float | None = None
    reference_score: float | None = None
    reference_name: Annotated[
        str, Field(pattern=r"^[^\x00-\x1f\x7f]*$", max_length=80, description=_REFERENCE_RULE)
    ] = ""
    """Whose score the reference is, for texts: ``human``."""
    human_score: float | None = None
    observation_mix_seed: Annotated[int, Field(ge=0), BeforeValidator(_no_bool)] | None = None
    """Vector observations are multiplied by the orthogonal matrix drawn with this seed; unset: left as they are."""

    @model_validator(mode="after")
    def _scores_differ(self) -> Self:
        if self.random_score is not None and self.random_score == self.reference_score:
            raise ValueError(
                f"random_score = reference_score = {self.random_score}: expected two different scores, because "
                "returns are normalised by their difference"
            )
        return self


def _names_differ(tasks: tuple[TaskConfig, ...]) -> tuple[TaskConfig, ...]:
    """Refuse two tasks of one name: the name is the key of the task's head and scores."""
    names = [task.name for task in tasks]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ValueError(f"two tasks are named {twice[0]!r}: expected every task to have its own name")
    return tasks


Tasks = Annotated[tuple[TaskConfig, ...], Field(min_length=1), AfterValidator(_names_differ)]


class EvaluationConfig(Settings):
    """When and how scores are measured."""

    episodes: Annotated[int, Field(ge=1, le=100_000), BeforeValidator(_no_bool)] = 10
    actions: Literal["greedy", "stochastic"] = "greedy"
    every_steps: Steps = 200_000
    max_episode_steps: PositiveInt = 27_000
    """Decisions after which a game is cut off. A run whose recipe does not set it gets ``atari.max_episode_frames`` ÷
    ``atari.frame_skip``, rounded up."""
    periodic_share: PositiveFloat = 1.0
    """Decisions that a periodic evaluation should take at most for each training step since the last one.

    It plays fewer games rather than cut them off; only a game that goes on beyond four times its share ends there.
    """
    seed: Annotated[int, Field(ge=0, lt=2**29), BeforeValidator(_no_bool)] = 1_000_003
    """Episode k is played with seed 2³⁰ + this + k; training seeds stay below 2³⁰."""
    before_training: bool = True
    """Score each task once before its first training step: where its learning curve begins.

    Takes no longer than the task's part of a periodic evaluation, and changes nothing that is learned.
    """
    unseen_tasks: bool = False
    """Also score tasks not learned yet (zero-shot)."""
    gifs: bool = False
    """Film each game at each boundary for TensorBoard: some seconds for each."""


class CheckpointConfig(Settings):
    """When a run is saved in the middle of a task; at the end of each it always is."""

    every_steps: Steps = 200_000
    """Steps of a task; at these steps all games start anew, so it is part of what decides a run."""


class ComputeConfig(Settings):
    """How the machine is used. Nothing here changes what PPO computes; ``precision`` rounds more coarsely."""

    environment_groups: Annotated[Literal[1, 2, "auto"], BeforeValidator(_no_bool)] = "auto"
    """Groups of environments that take turns: one plays while actions are chosen for the other. ``auto``: 2 on CUDA."""
    capture: Literal["auto", "off"] = "auto"
    """Record inference and update once as CUDA graphs and replay them, where there is CUDA and the method allows it."""
    compile: bool = False
    """Let ``torch.compile`` make one piece of the trunk's many operations; needs a compiler for the machine."""
    precision: Precision = "float32"
    """Of the trunk's products in collection, update and evaluation; weights, optimizer and Fisher stay float32."""

    def groups(self, device: str, environments: int) -> int:
        """How many groups the environments of a task are in, on a device that is not ``auto`` any more."""
        if self.environment_groups == "auto":
            return min(2 if device.startswith("cuda") else 1, environments)
        return min(self.environment_groups, environments)


class SequenceConfig(Settings):
    """What to learn, in what order: ``envs/*.toml``."""

    description: str
    tasks: Tasks
    atari: AtariConfig = AtariConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    agent: dict[str, Any] = {}
    """Settings these tasks need, laid over the agent recipe (``--set`` beats both)."""


class RunConfig(Settings):
    """Everything that decides a run, resolved: what ``config.toml`` in a run folder holds."""

    agent_name: str
    sequence_name: str
    seed: Seed = 0
    device: Device = "auto"
    agent: AgentConfig
    tasks: Tasks
    atari: AtariConfig = AtariConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    compute: ComputeConfig = ComputeConfig()

    @model_validator(mode="after")
    def _room_for_distilling(self) -> Self:
        for stage, task in enumerate(self.tasks, start=1):
            if self.learning_steps(stage) < 1:
                raise ValueError(
                    f"task {task.name!r} has steps = {task.steps:,}: expected more than {self.agent.distil.steps:,}, "
                    "the steps that learning = 'distil' plays to distil a task (raise its steps, or lower "
                    "distil.teacher_states and distil.student_states)"
                )
        return self

    def learned_apart(self, stage: int) -> bool:
        """Whether task number ``stage``, counted from 1, is learned in a trunk of its own."""
        return self.agent.learning == "distil" and (stage > 1 or self.agent.distil.first_task)

    def learning_steps(self, stage: int) -> int:
        """Steps of task number ``stage``, counted from 1, in which it is learned: all but those played to distil it."""
        played = self.agent.distil.steps if self.learned_apart(stage) else 0
        return self.tasks[stage - 1].steps - played
