"""Recipe models: typed and frozen; unknown keys are errors, and names end in their units.

An agent recipe (``agents/*.toml``) configures how to learn, a sequence recipe (``envs/*.toml``) what to learn, in
what order. :mod:`blip_rl.recipes` finds, merges and validates them into one ``RunConfig``. A step is one decision of
one environment: with Atari's frame skip of 4, 4 frames.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from blip_rl.setting_types import (
    Activation,
    Device,
    Fraction,
    Kernel,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Precision,
    ReferenceName,
    Seed,
    Settings,
    Steps,
    TaskName,
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

    image: ImageTrunkConfig
    """Layers for images."""
    vector: VectorTrunkConfig
    """Layers for vectors."""
    task_modulation: bool
    """Learn a scale and a shift per task and unit, applied to the output of each trunk layer."""


class DistilConfig(Settings):
    """Distillation of a task learned in a separate trunk into the shared trunk (``learning = "distil"``)."""

    start: Literal["fresh", "shared"] = "fresh"
    """Initial weights of the separate trunk: newly initialised, or a copy of the shared trunk."""
    first_task: bool = True
    """Whether to learn the first task in a separate trunk, too. PPO saturates many units. The weights that feed them
    have no Fisher information, so that a method based on it leaves them free, although changing them destroys the task.
    A distilled trunk has few saturated units."""
    teacher_states: PositiveInt = 4_096
    """States to distil on, collected with the learned policy, the teacher; they count as steps of the task."""
    student_states: Annotated[int, Field(ge=0), BeforeValidator(reject_bool)] = 4_096
    """States to distil on, collected with the student after half of the updates and labelled by the teacher, as in
    DAgger; they count as steps of the task. 0: the teacher's states only."""
    updates: PositiveInt = 1_500
    """Optimizer steps: the first half on the teacher's states, the second half on all states; without student states,
    all on the teacher's."""
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


class TaskConfig(Settings):
    """One task of a sequence: a game, its training steps, and the scores that normalise its returns."""

    name: TaskName
    """Name of the task in tables, files and options."""
    game: str
    """ALE ROM name (``kung_fu_master``) or Gymnasium id (``CartPole-v1``); other unambiguous spellings are accepted."""
    title: str = ""
    """Name in reports and videos; empty: the name."""
    steps: Steps = 10_000_000
    """Training steps: decisions, summed over environments. ``--steps`` replaces it."""
    random_score: float | None = None
    """Mean return of a random policy: normalised score 0."""
    reference_score: float | None = None
    """Return that is normalised score 1."""
    reference_name: ReferenceName = ""
    """Name of the reference in texts, for example ``human``."""
    human_score: float | None = None
    """Published return of a human, shown in reports."""
    observation_mix_seed: Annotated[int, Field(ge=0), BeforeValidator(reject_bool)] | None = None
    """Multiply vector observations by a random orthogonal matrix with this seed; None leaves them unchanged."""

    @property
    def has_normalisers(self) -> bool:
        """Whether returns can be normalised: the recipe gives a random and a reference score."""
        return self.random_score is not None and self.reference_score is not None

    @model_validator(mode="after")
    def _scores_differ(self) -> Self:
        if self.random_score is not None and self.random_score == self.reference_score:
            raise ValueError(
                f"random_score = reference_score = {self.random_score}: expected two different scores, because "
                "returns are normalised by their difference"
            )
        return self


def _names_differ(tasks: tuple[TaskConfig, ...]) -> tuple[TaskConfig, ...]:
    """Reject two tasks of the same name: the name identifies the task's head and scores."""
    names = [task.name for task in tasks]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ValueError(f"two tasks are named {twice[0]!r}: expected every task to have its own name")
    return tasks


Tasks = Annotated[tuple[TaskConfig, ...], Field(min_length=1), AfterValidator(_names_differ)]


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
    """Most steps of a periodic evaluation per training step since the last one.

    The evaluation plays fewer episodes rather than truncated ones; only at four times this limit are they truncated.
    """
    seed: Annotated[int, Field(ge=0, lt=2**29), BeforeValidator(reject_bool)] = 1_000_003
    """Episode k uses seed 2³⁰ + ``seed`` + k; training seeds are below 2³⁰."""
    before_training: bool = True
    """Evaluate each task once before its first training step, as the start of its learning curve.

    Takes at most the task's part of a periodic evaluation, and does not change training.
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


class SequenceConfig(Settings):
    """Sequence recipe, what to learn in what order: ``envs/*.toml``."""

    description: str
    """One line for ``blip-rl list``."""
    tasks: Tasks
    """Games, in the order in which they are learned."""
    atari: AtariConfig = AtariConfig()
    """Preprocessing."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Evaluation."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """Snapshots."""
    agent: dict[str, Any] = Field(default_factory=dict)
    """Settings that these tasks need; they override the agent recipe, and ``--set`` overrides both."""


class RunConfig(Settings):
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
    tasks: Tasks
    """Games, in the order in which they are learned."""
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
        for stage, task in enumerate(self.tasks, start=1):
            if self.learning_steps(stage) < 1:
                raise ValueError(
                    f"task {task.name!r} has steps = {task.steps:,}: expected more than {self.agent.distil.steps:,}, "
                    "the steps that learning = 'distil' uses to distil a task (raise its steps, or lower "
                    "distil.teacher_states and distil.student_states)"
                )
        return self

    def learned_apart(self, stage: int) -> bool:
        """Return whether task number ``stage``, counted from 1, is learned in a separate trunk."""
        return self.agent.learning == "distil" and (stage > 1 or self.agent.distil.first_task)

    def learning_steps(self, stage: int) -> int:
        """Return the training steps of task number ``stage``, counted from 1: all but those used for distilling."""
        played = self.agent.distil.steps if self.learned_apart(stage) else 0
        return self.tasks[stage - 1].steps - played
