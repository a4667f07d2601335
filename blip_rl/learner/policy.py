"""One policy for all tasks: a shared trunk and one module per task with its own parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import make_proba_distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import MlpExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn
from torch.distributions import Distribution

from blip_rl.agent_config import TrunkConfig
from blip_rl.config import NormalizationConfig
from blip_rl.core.weights import set_weights
from blip_rl.learner.actor_path import ActorPath
from blip_rl.learner.adam import Adam
from blip_rl.learner.normalization import Normalizer
from blip_rl.learner.precision import Compiled, autocast_trunk, matmul_precision
from blip_rl.learner.task_module import TaskModule
from blip_rl.learner.trunk import Modulation, Trunk
from blip_rl.setting_types import Precision


class ContinualPolicy(ActorCriticPolicy):
    """stable-baselines3's actor-critic policy with switchable tasks: ``add_task`` once per task, then ``use_task``."""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        *,
        trunk: TrunkConfig,
        normalization: NormalizationConfig | None = None,
        optimizer_class: type[torch.optim.Optimizer] = Adam,
        precision: Precision = "float32",
        compiled: bool = False,
        **kwargs: Any,
    ) -> None:
        self._modulated, self._precision = trunk.task_modulation, precision
        self._one_head = trunk.heads == "shared"
        self._normalization = normalization or NormalizationConfig()
        self.task_names: list[str] = []
        self._current = -1
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=[],
            features_extractor_class=Trunk,
            features_extractor_kwargs={"config": trunk},
            optimizer_class=optimizer_class,
            **kwargs,
        )
        # One function for all tasks: compiled once, since the heads are outside and modulations have equal shapes.
        run = self._preprocessed_trunk
        self._run_trunk = Compiled(run, list(self.trunk.parameters())) if compiled else run

    def _build(self, lr_schedule: Schedule) -> None:
        """Build everything but the heads, which tasks add."""
        # An empty MlpExtractor passes features on: stable-baselines3's forward and evaluate_actions work unchanged.
        self.mlp_extractor = MlpExtractor(self.features_dim, net_arch=[], activation_fn=self.activation_fn)
        self.tasks = nn.ModuleList()
        self.new_optimizer(lr_schedule(1))

    @property
    def trunk(self) -> Trunk:
        """The shared layers."""
        return cast(Trunk, self.features_extractor)

    @property
    def current(self) -> TaskModule:
        """The module of the task in use."""
        if self._current < 0:
            raise RuntimeError("no task in use: call add_task and use_task first")
        return self.module_of(self._current)

    def module_of(self, index: int) -> TaskModule:
        """Return the module of a task, counted from 0 in the order in which tasks were added."""
        return cast(TaskModule, self.tasks[0 if self._one_head else index])

    @property
    def protected(self) -> nn.Module:
        """What methods protect: the trunk or, with a shared head, trunk and actor."""
        return ActorPath(self.trunk, self.module_of(0).actor) if self._one_head else self.trunk

    @property
    def current_name(self) -> str:
        """Name of the task in use."""
        return self.task_names[self._current]

    @property
    def current_number(self) -> int:
        """Number of the task in use, counted from 1 in the order in which tasks were added."""
        return self._current + 1

    @property
    def action_net(self) -> nn.Linear:  # type: ignore[override]
        """The current task's actor, under stable-baselines3's name."""
        return self.current.actor

    @property
    def value_net(self) -> nn.Linear:  # type: ignore[override]
        """The current task's critic, under stable-baselines3's name."""
        return self.current.critic

    @property
    def log_std(self) -> nn.Parameter:  # type: ignore[override]
        """Log standard deviation of the current task's actions; continuous actions only."""
        if self.current.log_std is None:
            raise AttributeError("log_std")
        return self.current.log_std

    def add_task(self, name: str, action_space: spaces.Space[Any]) -> None:
        """Add the module of a new task; the task in use does not change.

        Raises:
            ValueError: the task has been added before, or has other actions than the shared head.
        """
        if name in self.task_names:
            raise ValueError(f"task {name!r} is already there: {', '.join(self.task_names)}")
        if not (self._one_head and len(self.tasks)):
            self.tasks.append(self._new_module(action_space).to(self.device))
        elif action_space != self.module_of(0).action_space:
            raise ValueError(
                f"task {name!r} has actions {action_space}, the shared head {self.module_of(0).action_space}"
            )
        self.task_names.append(name)

    def _new_module(self, action_space: spaces.Space[Any]) -> TaskModule:
        normalizer = Normalizer(self.observation_space, self._normalization)
        return TaskModule(self.trunk, action_space, self._modulated, normalizer)

    def reset_current_task(self) -> None:
        """Re-initialise the parameters of the task in use, in place; its running statistics stay."""
        # In place, because others refer to its tensors, and drawn on the CPU, so that devices agree on a seed's head.
        set_weights(self.current, dict(self._new_module(self.action_space).named_parameters()))

    def use_task(self, name: str) -> None:
        """Make this the task in use.

        Raises:
            ValueError: the task was never added.
        """
        if name not in self.task_names:
            raise ValueError(
                f"task {name!r} is unknown to this agent; it knows: {', '.join(self.task_names) or 'none'}"
            )
        self._current = self.task_names.index(name)
        self.action_space = self.current.action_space
        self.action_dist = make_proba_distribution(self.action_space)
        self.trunk.modulate([cast(Modulation, modulation) for modulation in self.current.modulations])

    @contextmanager
    def using_task(self, name: str) -> Iterator[None]:
        """Use another task within the block, then return to the one before."""
        before = self.current_name
        self.use_task(name)
        try:
            yield
        finally:
            self.use_task(before)

    def new_optimizer(self, learning_rate: float, tasks: Sequence[str] | None = None) -> None:
        """Create an optimizer over the trunk and some tasks' modules; the other modules are frozen.

        Args:
            learning_rate: Initial learning rate.
            tasks: Names of the tasks to learn; None: the one in use.
        """
        indices = {self._current} if tasks is None else {self.task_names.index(name) for name in tasks}
        learned = {0} if self._one_head else indices
        parameters = list(self.trunk.parameters())
        for index, task in enumerate(self.tasks):
            task.requires_grad_(index in learned)  # a method's loss may run other heads; gradients pass through them
            parameters += task.parameters() if index in learned else ()
        # Frees the gradients of modules that the new optimizer does not hold: its zero_grad would not reach them.
        self.zero_grad(set_to_none=True)
        # The fused kernel makes the step of the large layer several times faster, also on the CPU.
        options = {"fused": True, **self.optimizer_kwargs}
        self.optimizer = self.optimizer_class(parameters, lr=learning_rate, **options)  # type: ignore[call-arg]

    def task_state(self) -> dict[str, Tensor]:
        """Return the state of trunk and task modules without duplicates (``state_dict`` lists the trunk 3 times)."""
        return {
            f"{prefix}.{name}": tensor
            for prefix, module in self._parts().items()
            for name, tensor in module.state_dict().items()
        }

    def load_task_state(self, tensors: dict[str, Tensor]) -> None:
        """Load the result of :meth:`task_state`.

        Raises:
            RuntimeError: a tensor is missing, too many or of another shape.
        """
        for prefix, module in self._parts().items():
            mine = {name[len(prefix) + 1 :]: t for name, t in tensors.items() if name.startswith(f"{prefix}.")}
            module.load_state_dict(mine, strict=True)

    def _parts(self) -> dict[str, nn.Module]:
        return {"trunk": self.trunk, "tasks": self.tasks}

    def preprocess(self, observations: Tensor) -> Tensor:
        """Convert raw observations of the task in use to the trunk's input.

        Returns:
            float32, normalised with the task's statistics if the recipe says so; images divided by 255 and with
            channels last.
        """
        return self._as_input(self._normalized(observations))

    def _normalized(self, observations: Tensor) -> Tensor:
        on = self._normalization.normalize_observations
        return cast(Tensor, self.current.normalizer(observations)) if on else observations

    def _as_input(self, observations: Tensor) -> Tensor:
        if observations.dim() == 4:
            # Change the layout while the frames are bytes, a quarter of the memory traffic; divide in place.
            return observations.contiguous(memory_format=torch.channels_last).to(torch.float32).div_(255.0)
        # A copy in torch's memory: the rounding of a matrix product depends on where its operands begin.
        return observations.to(torch.float32, copy=True)

    def extract_features(self, obs: Any, features_extractor: Any = None) -> Tensor:
        """Compute trunk features of raw observations, (batch, features_dim), in float32 whatever the trunk's precision.

        Heads are always float32: rounding a logit to the 8 significant bits of bfloat16 would change the probability
        ratio by a noticeable part of PPO's clip range.
        """
        # Not in the compiled function: it is compiled once for all tasks, and every task has its own statistics.
        normalized = self._normalized(obs)
        with autocast_trunk(self._precision, self.device):
            features = self._run_trunk(normalized)
        return features.float()

    def _preprocessed_trunk(self, observations: Tensor) -> Tensor:
        return cast(Tensor, self.trunk(self._as_input(observations)))

    @contextmanager
    def matmul_precision(self) -> Iterator[None]:
        """Use this policy's precision for matrix products within the block, forward and backward."""
        with matmul_precision(self._precision, self.device):
            yield

    def head(self, features: Tensor) -> Distribution:
        """Map trunk features to the action distribution of the task in use."""
        return cast(Distribution, self._get_action_dist_from_latent(features).distribution)

    def protected_head(self, outputs: Tensor) -> Distribution:
        """Map the output of :attr:`protected` to the action distribution of the task in use."""
        return cast(Distribution, self._distribution(outputs).distribution) if self._one_head else self.head(outputs)

    def _distribution(self, outputs: Tensor) -> Any:
        noise = () if isinstance(self.action_space, spaces.Discrete) else (self.log_std,)
        return self.action_dist.proba_distribution(outputs, *noise)

    def critic(self, features: Tensor) -> Tensor:
        """Map trunk features to the values of the task in use, (batch,)."""
        return cast(Tensor, self.value_net(features)).flatten()

    def values_of(self, observations: Tensor) -> Tensor:
        """Return the values of raw observations for the task in use, (batch,)."""
        return self.critic(self.extract_features(observations.to(self.device)))

    def predict_values(self, obs: Any) -> Tensor:
        """Return V(s), (batch, 1): stable-baselines3's own method would leave out the normalisation of observations."""
        return self.values_of(obs).unsqueeze(1)

    def get_distribution(self, obs: Any) -> Any:
        """Return stable-baselines3's distribution of the task in use, see :meth:`predict_values`."""
        return self._get_action_dist_from_latent(self.extract_features(obs))

    def outputs_of(self, task: int, observations: Tensor) -> tuple[Distribution, Tensor]:
        """Return policy and values of task number ``task`` (from 1) for raw observations, whatever task is in use."""
        # On the trunk as it is now, with gradients; see methods.base.Outputs.
        with self.using_task(self.task_names[task - 1]):
            features = self.extract_features(observations.to(self.device))
            return self.head(features), self.critic(features)

    def act(self, observations: np.ndarray, greedy: bool) -> np.ndarray:
        """Choose actions for the task in use, clipped to its bounds, without gradients.

        Args:
            observations: Raw, (environments, ...).
            greedy: Take the mode of the policy instead of a sample.

        Raises:
            ValueError: the network gives values that are not finite.
        """
        with torch.no_grad(), self.matmul_precision():
            outputs = self.action_net(self.extract_features(torch.as_tensor(observations, device=self.device)))
            if not outputs.isfinite().all():  # torch's validation alone does not suffice: torch.compile disables it
                raise ValueError("its network gives values that are not finite")
            actions: np.ndarray = self._distribution(outputs).get_actions(deterministic=greedy).cpu().numpy()
        return self.within_bounds(actions)

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        """Choose actions as :meth:`act` does when stable-baselines3's ``predict`` asks, for example in a callback."""
        return torch.as_tensor(self.act(observation, greedy=deterministic))

    def within_bounds(self, actions: np.ndarray) -> np.ndarray:
        """Reshape actions for the environments and clip continuous ones to the task's bounds."""
        if isinstance(self.action_space, spaces.Box):
            actions = actions.reshape(-1, *self.action_space.shape)
            actions = np.clip(actions, self.action_space.low, self.action_space.high)
        return actions
