"""Agent recipe models, how to learn: typed and frozen; unknown keys are errors, and names end in their units.

A step is one decision of one environment: with Atari's frame skip of 4, 4 frames.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from blip_rl.setting_types import (
    Activation,
    Fraction,
    Kernel,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Settings,
    Units,
    reject_bool,
)


class PpoConfig(Settings):
    """Proximal policy optimisation (PPO; Schulman et al. 2017, https://arxiv.org/abs/1707.06347)."""

    environments: Annotated[int, Field(ge=1, le=4096), BeforeValidator(reject_bool)]
    """Environments that are stepped in parallel."""
    rollout_steps: Annotated[int, Field(ge=1, le=1_000_000), BeforeValidator(reject_bool)]
    """Steps of each environment between two updates; a rollout has ``environments`` × ``rollout_steps`` steps."""
    minibatches: PositiveInt
    """Minibatches that a rollout is divided into; must divide its steps."""
    epochs: Annotated[int, Field(ge=1, le=1000), BeforeValidator(reject_bool)]
    """Passes over each rollout."""
    learning_rate: PositiveFloat
    """Adam's learning rate at the start of each task."""
    learning_rate_schedule: Literal["linear", "constant"]
    """Learning rate within a task: ``linear`` decays to 0 at its end, ``constant`` does not change."""
    clip_range: PositiveFloat
    """ε of the clipped policy objective: the probability ratio is clipped to 1 ± ε."""
    clip_range_value: PositiveFloat | None = None
    """Largest change of a value prediction in an update, in units of return; none: values are not clipped."""
    entropy_coefficient: NonNegativeFloat
    """Weight of the entropy bonus in the loss."""
    value_coefficient: NonNegativeFloat
    """Weight of the value loss in the loss."""
    discount: Fraction
    """Discount factor γ per step."""
    gae_lambda: Fraction
    """λ of generalised advantage estimation: 0 is the one-step error, 1 the whole return."""
    max_gradient_norm: PositiveFloat
    """Norm to which the gradient of all parameters together is clipped."""
    adam_epsilon: PositiveFloat
    """Adam's ε, added to the denominator."""
    value_loss: Literal["clipped", "max"] = "clipped"
    """Value loss with ``clip_range_value``: ``clipped`` is the squared error of the clipped value, as in
    stable-baselines3; ``max`` the larger of the errors of clipped and unclipped value, as in openai/baselines."""
    value_loss_scale: PositiveFloat = 1.0
    """Factor of the mean squared value error, in addition to ``value_coefficient``; openai/baselines uses 0.5."""
    normalize_advantage: Literal["minibatch", "rollout"] = "minibatch"
    """Samples over which advantages are normalised to mean 0 and standard deviation 1."""

    @model_validator(mode="after")
    def _value_loss_is_defined(self) -> Self:
        if self.value_loss == "max" and self.clip_range_value is None:
            raise ValueError(
                "value_loss = 'max' without clip_range_value: expected a clip_range_value, because the loss is the "
                "larger of those of the clipped and the unclipped value (set one, or value_loss = 'clipped')"
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
    """Trunk for images: convolutions, then fully connected layers, over stacked frames."""

    conv: Annotated[tuple[tuple[Units, Kernel, Kernel], ...], Field(min_length=1, max_length=32)]
    """(channels, kernel size, stride) of each convolution; no padding."""
    hidden: Annotated[tuple[Units, ...], Field(min_length=1, max_length=32)]
    """Units of each fully connected layer after the convolutions."""
    activation: Activation
    """Activation function after each layer."""


class VectorTrunkConfig(Settings):
    """Trunk for vectors: fully connected layers."""

    hidden: Annotated[tuple[Units, ...], Field(min_length=1, max_length=32)]
    """Units of each layer."""
    activation: Activation
    """Activation function after each layer."""


class TrunkConfig(Settings):
    """The layers that all tasks share; the first task's observation space selects ``image`` or ``vector``."""

    task_modulation: bool
    """Learn a scale and a shift per task and unit, applied to the output of each trunk layer."""
    image: ImageTrunkConfig
    """Layers for images."""
    vector: VectorTrunkConfig
    """Layers for vectors."""
    normalization: Literal["none", "layer"] = "none"
    """``layer``: the outputs of each layer are normalised for every sample, to mean 0 and variance 1 over all units and
    positions, before the task's scale and shift and the activation. Without parameters of its own."""
    heads: Literal["per-task", "shared"] = "per-task"
    """``per-task``: an actor and a critic for each task. ``shared``: one of each, so that the agent is not told the
    task; all tasks need the same actions, and methods protect the actor together with the trunk, but neither the critic
    nor the standard deviation of continuous actions."""

    @model_validator(mode="after")
    def _units_to_normalize(self) -> Self:
        if self.normalization == "layer" and 1 in (*self.image.hidden, *self.vector.hidden):
            raise ValueError(
                "normalization = 'layer' with a layer of 1 unit in hidden: expected at least 2 units in each, because "
                "one number normalised is always 0"
            )
        return self

    @model_validator(mode="after")
    def _shared_heads_know_no_task(self) -> Self:
        if self.heads == "shared" and self.task_modulation:
            raise ValueError(
                "heads = 'shared' with task_modulation = true: expected no parameters that belong to a task, because "
                "the agent is not told the task (set task_modulation = false)"
            )
        return self


TrunkStart = Literal["fresh", "shared", "previous"]


class DistilConfig(Settings):
    """Distillation of a task learned in a separate trunk into the shared trunk (``learning = "distil"``)."""

    start: TrunkStart = "previous"
    """Initial weights of the separate trunk: those that the previous task was learned with (``previous``, kept between
    two tasks), newly initialised (``fresh``), or a copy of the shared trunk (``shared``)."""
    first_task: bool = True
    """Whether to learn the first task in a separate trunk as well. PPO saturates many units. The weights into
    saturated units have almost no Fisher information, so Fisher-based methods leave them free, although large changes
    of these weights make the agent forget the task. A distilled trunk has few saturated units."""
    rollout_states: Annotated[int, Field(ge=0), BeforeValidator(reject_bool)] = 0
    """States to distil on from the task's last rollouts, rounded up to whole ones. They cost no further steps, but are
    kept in memory, and in the snapshots of these steps."""
    teacher_states: PositiveInt = 4_096
    """States to distil on, collected with the learned policy, the teacher; they count as steps of the task."""
    student_states: Annotated[int, Field(ge=0), BeforeValidator(reject_bool)] = 4_096
    """States to distil on, collected with the student after half of the updates and labelled by the teacher, as in
    DAgger; they count as steps of the task. 0: none."""
    updates: PositiveInt = 1_500
    """Optimizer steps: the first half without the student's states, the second half on all states."""
    minibatch: PositiveInt = 256
    """States per optimizer step, drawn with replacement."""
    learning_rate: PositiveFloat = 3e-3
    """Adam's learning rate at the start of each half; it decays linearly to 0 within the half."""

    @property
    def steps(self) -> int:
        """Steps of a task that are used for distilling instead of learning."""
        return self.teacher_states + self.student_states


class AgentConfig(Settings):
    """Agent recipe, how to learn: ``agents/*.toml``."""

    description: str
    """One line for ``blip-rl list``."""
    learning: Literal["direct", "distil"] = "direct"
    """``direct``: learn each task in the shared trunk. ``distil``: learn it without protection in a separate trunk,
    then distil the policy into the shared trunk under the method's protection."""
    ppo: PpoConfig
    """The learning algorithm."""
    trunk: TrunkConfig
    """The shared network."""
    method: dict[str, Any]
    """``name`` and the settings of that method, which validates them itself."""
    distil: DistilConfig = DistilConfig()
    """Only used with ``learning = "distil"``."""
