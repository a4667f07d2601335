"""One policy for all tasks: a shared trunk, and for each task one module with everything that is its own."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import make_proba_distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import MlpExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn
from torch.distributions import Distribution

from blip_rl.config import Precision, TrunkConfig
from blip_rl.errors import UserError
from blip_rl.learner.precision import Compiled, matmul_precision, rounded
from blip_rl.learner.trunk import Modulation, Trunk


class Adam(torch.optim.Adam):
    """torch's own Adam, to the bit, without torch's compiler behind it.

    At the first call of any optimizer's method torch imports its compiler, only to tell it to leave that method alone:
    1.4 s of CPU time and 70 MB in every process (torch 2.13), also in those that only play. Nothing is compiled here,
    so the methods are taken as they are below that.
    """

    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)


class TaskModule(nn.Module):
    """All that belongs to one task: actor, critic, and where asked for a scale and shift for each trunk unit."""

    log_std: nn.Parameter | None

    def __init__(self, trunk: Trunk, action_space: spaces.Space[Any], modulation: bool) -> None:
        super().__init__()
        if not isinstance(action_space, spaces.Discrete | spaces.Box):
            raise UserError(f"actions of {type(action_space).__name__}: expected a Discrete or a Box action space")
        outputs = int(action_space.n) if isinstance(action_space, spaces.Discrete) else get_action_dim(action_space)
        self.action_space = action_space
        self.actor = nn.Linear(trunk.features_dim, outputs)
        self.critic = nn.Linear(trunk.features_dim, 1)
        self.log_std = None if isinstance(action_space, spaces.Discrete) else nn.Parameter(torch.zeros(outputs))
        self.modulations = nn.ModuleList(Modulation(units) for units in trunk.layer_outputs if modulation)
        for head, gain in ((self.actor, 0.01), (self.critic, 1.0)):  # stable-baselines3's gains
            nn.init.orthogonal_(head.weight, gain=gain)
            nn.init.zeros_(head.bias)


class ContinualPolicy(ActorCriticPolicy):
    """stable-baselines3's actor-critic policy with a task to switch: ``add_task`` once, then ``use_task``."""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        *,
        trunk: TrunkConfig,
        optimizer_class: type[torch.optim.Optimizer] = Adam,
        precision: Precision = "float32",
        compiled: bool = False,
        **kwargs: Any,
    ) -> None:
        self._modulated, self._precision = trunk.task_modulation, precision
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
        run = self._preprocessed_trunk
        self._run_trunk = Compiled(run, list(self.trunk.parameters())) if compiled else run

    def _build(self, lr_schedule: Schedule) -> None:
        """No head is built here: tasks add their own."""
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
        return cast(TaskModule, self.tasks[self._current])

    @property
    def current_name(self) -> str:
        """Name of the task in use."""
        return self.task_names[self._current]

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
        """The current task's exploration noise; only continuous actions have one."""
        if self.current.log_std is None:
            raise AttributeError("log_std")
        return self.current.log_std

    def add_task(self, name: str, action_space: spaces.Space[Any]) -> None:
        """Give a new task its module. The task in use stays the same."""
        if name in self.task_names:
            raise ValueError(f"task {name!r} is already there: {', '.join(self.task_names)}")
        self.tasks.append(TaskModule(self.trunk, action_space, self._modulated).to(self.device))
        self.task_names.append(name)

    def reset_current_task(self) -> None:
        """Initialise the module of the task in use anew, as :meth:`add_task` does, and in place."""
        fresh = TaskModule(self.trunk, self.action_space, self._modulated)
        self.current.load_state_dict(fresh.state_dict())

    def use_task(self, name: str) -> None:
        """Play and learn this task from now on.

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
        """Play another task for a while, then return to the one in use."""
        before = self.current_name
        self.use_task(name)
        try:
            yield
        finally:
            self.use_task(before)

    def new_optimizer(self, learning_rate: float, tasks: Sequence[str] | None = None) -> None:
        """A fresh optimizer over the trunk and some tasks' modules; the other tasks' modules rest.

        Args:
            learning_rate: Where it starts.
            tasks: Names of the tasks to learn; None means the one in use.
        """
        learned = {self._current} if tasks is None else {self.task_names.index(name) for name in tasks}
        parameters = list(self.trunk.parameters())
        for index, task in enumerate(self.tasks):
            task.requires_grad_(index in learned)
            parameters += task.parameters() if index in learned else ()
        self.zero_grad(set_to_none=True)
        # The fused kernel makes the step of the large layer several times faster, on the CPU too.
        options = {"fused": True, **self.optimizer_kwargs}
        self.optimizer = self.optimizer_class(parameters, lr=learning_rate, **options)  # type: ignore[call-arg]

    def task_state(self) -> dict[str, Tensor]:
        """Trunk and every task's module by name, each once: stable-baselines3 lists the trunk thrice in its own."""
        return {
            f"{prefix}.{name}": tensor
            for prefix, module in self._parts().items()
            for name, tensor in module.state_dict().items()
        }

    def load_task_state(self, tensors: dict[str, Tensor]) -> None:
        """Take what :meth:`task_state` returned.

        Raises:
            RuntimeError: a tensor is missing, too many or of another shape.
        """
        for prefix, module in self._parts().items():
            mine = {name[len(prefix) + 1 :]: t for name, t in tensors.items() if name.startswith(f"{prefix}.")}
            module.load_state_dict(mine, strict=True)

    def _parts(self) -> dict[str, nn.Module]:
        return {"trunk": self.trunk, "tasks": self.tasks}

    def preprocess(self, observations: Tensor) -> Tensor:
        """Raw observations → what the trunk takes: float, images divided by 255 and laid out with channels last."""
        if observations.dim() == 4:
            # Laid out anew while they are bytes, a quarter of the memory to move; then one pass, and one in place.
            return observations.contiguous(memory_format=torch.channels_last).to(torch.float32).div_(255.0)
        return observations.to(torch.float32)

    def extract_features(self, obs: Any, features_extractor: Any = None) -> Tensor:
        """Observations as the environment gives them → trunk features, float32 whatever the precision of the trunk.

        Heads are always float32: a logit of 8 bits would move the ratio of two policies by a part of the clip range.
        """
        with rounded(self._precision, self.device):
            features = self._run_trunk(obs)
        return features.float()

    def _preprocessed_trunk(self, observations: Tensor) -> Tensor:
        return cast(Tensor, self.trunk(self.preprocess(observations)))

    @contextmanager
    def matmul_precision(self) -> Iterator[None]:
        """A block in which products are as exact as this policy's precision says, forward and backward."""
        with matmul_precision(self._precision, self.device):
            yield

    def head(self, features: Tensor) -> Distribution:
        """Trunk features → the current task's distribution over actions."""
        return cast(Distribution, self._get_action_dist_from_latent(features).distribution)

    def critic(self, features: Tensor) -> Tensor:
        """Trunk features → the current task's values, shape (batch,)."""
        return cast(Tensor, self.value_net(features)).flatten()

    def outputs_of(self, task: int, observations: Tensor) -> tuple[Distribution, Tensor]:
        """Policy and values of task number ``task`` (from 1) for its raw observations, whatever task is in use."""
        with self.using_task(self.task_names[task - 1]):
            features = self.extract_features(observations.to(self.device))
            return self.head(features), self.critic(features)

    def act(self, observations: np.ndarray, greedy: bool) -> np.ndarray:
        """Choose actions of the task in use, clipped to its bounds where it has some; no gradients.

        Raises:
            ValueError: the network gives values that are not finite.
        """
        with torch.no_grad(), self.matmul_precision():
            outputs = self.action_net(self.extract_features(torch.as_tensor(observations, device=self.device)))
            if not outputs.isfinite().all():  # torch's distributions look too, until torch.compile ends that for good
                raise ValueError("its network gives values that are not finite")
            noise = () if isinstance(self.action_space, spaces.Discrete) else (self.log_std,)
            distribution = self.action_dist.proba_distribution(outputs, *noise)
            actions: np.ndarray = distribution.get_actions(deterministic=greedy).cpu().numpy()
        return self.within_bounds(actions)

    def within_bounds(self, actions: np.ndarray) -> np.ndarray:
        """Shape actions for the environments and clip continuous ones to the task's bounds."""
        if isinstance(self.action_space, spaces.Box):
            actions = actions.reshape(-1, *self.action_space.shape)
            actions = np.clip(actions, self.action_space.low, self.action_space.high)
        return actions

    def step(self, max_gradient_norm: float) -> Tensor:
        """Clip the norm of all gradients together and let the optimizer take its step; return the norm before.

        The fused optimizer divides gradients by ``grad_scale`` as it reads them: no pass over the weights for it.
        """
        gradients = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        self.optimizer.grad_scale = ((norm + 1e-6) / max_gradient_norm).clamp_(min=1.0)  # type: ignore[attr-defined]
        self.optimizer.step()
        return norm
