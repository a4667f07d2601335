"""PackNet: each task owns some of the weights; those of earlier tasks are frozen, those of later ones masked.

Mallya & Lazebnik, CVPR 2018 (arXiv 1711.05769); in reinforcement learning Wołczyk et al., "Continual World", NeurIPS
2021 (arXiv 2105.10919). A task trains all free weights; towards its end each layer keeps the largest of
them and prunes the others to 0; the kept ones are retrained for the rest of the task and then belong to it.
State: the owner of each weight, 1 byte per trunk weight for any number of tasks.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from blip_rl.core import saved
from blip_rl.methods.base import FinishedTask, Method, MethodState, Network
from blip_rl.setting_types import Fraction, PositiveInt, Settings

_FREE = 0
_TASKS = 6  # of atari6


class PacknetSettings(Settings):
    """How the weights are divided among the tasks."""

    tasks: Annotated[PositiveInt, Field(le=255)] | None = None
    """Number of tasks that get an equal share of every layer; later ones train only their head. None: the number of
    games in a run; 6 for a ``Packnet()`` made in Python."""
    retrain_share: Annotated[Fraction, Field(lt=1.0)] = 0.2
    """Last share of a task's steps, trained with the pruned weights at 0."""
    retrain_schedule: Literal["own", "task"] = "task"
    """``own``: the learning-rate schedule runs once before the pruning and once after it; ``task``: once over the whole
    task, so retraining gets its last part."""


class Packnet(Method):
    """Divides the weights of every layer among the tasks."""

    task_blind: ClassVar[bool] = False
    tasks_setting: ClassVar[str] = "tasks"
    no_visits: ClassVar[str] = "the weights of a task are frozen once it has been learned"
    Settings = PacknetSettings
    settings: PacknetSettings

    def __init__(self, **settings: Any) -> None:
        """Pass the fields of :class:`PacknetSettings` as keywords: ``Packnet(tasks=6)``."""
        super().__init__(**settings)
        self.tasks_seen = 0
        self._tasks = self.settings.tasks or _TASKS
        self._owners: dict[str, Tensor] = {}  # number of the task each weight belongs to, 0 where it is free
        self._weights: dict[str, nn.Parameter] = {}  # while a task is learned
        self._still: dict[str, Tensor] = {}  # masks of weights without gradient: of earlier tasks, or pruned
        self._kept: dict[str, Tensor] = {}  # once pruned: the weights the task will own

    @torch.no_grad()
    def start_task(self, trunk: nn.Module) -> None:
        """Freeze the weights of earlier tasks.

        Raises:
            ValueError: the owners belong to another network.
        """
        weights = _weights(trunk)
        if self.tasks_seen:
            owners = saved.fitted(self._owners, weights, "owner", torch.uint8)
        else:
            owners = {name: _like(weight, torch.uint8) for name, weight in weights.items()}
        self._owners, self._weights, self._kept = owners, weights, {}
        self._still = {name: owner != _FREE for name, owner in owners.items()}
        if self.tasks_seen >= self._tasks:
            warnings.warn(
                f"task {self.tasks_seen + 1} has no free weights: the trunk was divided among method.tasks = "
                f"{self._tasks}, so only the task's head is trained (set method.tasks to the number of tasks)",
                stacklevel=3,
            )

    @torch.no_grad()
    def resume_task(self, trunk: nn.Module) -> None:
        """Freeze the same weights as before the interruption: after the pruning, all but those the task keeps.

        Raises:
            ValueError: the owners or the masks belong to another network.
        """
        kept = self._kept
        self.start_task(trunk)
        if kept:
            self._kept = saved.fitted(kept, self._weights, "kept", torch.bool)
            self._still = {name: ~mask for name, mask in self._kept.items()}

    def at_progress(self, done: float) -> None:
        """Prune when the last ``retrain_share`` of the task begins."""
        if self.settings.retrain_share and done >= 1 - self.settings.retrain_share and not self._kept:
            self._prune()

    def schedule_remaining(self, remaining: float) -> float:
        """Restart the learning-rate schedule for retraining, if the setting says so."""
        share = self.settings.retrain_share
        if self.settings.retrain_schedule == "task" or not share:
            return remaining
        if self._kept:  # the first rollout of retraining began before the pruning
            return min(1.0, remaining / share)
        return max(0.0, (remaining - share) / (1 - share))

    @torch.no_grad()
    def add_gradient(self, name: str, parameter: nn.Parameter) -> None:
        """Zero the gradients of frozen weights and, after the first task, of biases."""
        if parameter.grad is None:
            return
        if name in self._still:
            # Zeroed before the norm is clipped, so frozen weights do not scale down the steps of the others.
            parameter.grad.masked_fill_(self._still[name], 0.0)
        elif self.tasks_seen:
            parameter.grad.zero_()

    @torch.no_grad()
    def after_step(self) -> None:
        """Reset pruned weights to 0: the optimizer's momentum still moves them."""
        for name, kept in self._kept.items():
            self._weights[name].masked_fill_((self._owners[name] == _FREE) & ~kept, 0.0)

    @torch.no_grad()
    def end_task(self, finished: FinishedTask) -> dict[str, float]:
        """Assign the kept weights to the task; prune first if :meth:`at_progress` has not done so."""
        if not self._weights:
            raise RuntimeError("end_task before start_task: attach the method while the task is being learned")
        if not self._kept:
            self._prune()
        self.tasks_seen += 1
        for name, kept in self._kept.items():
            self._owners[name].masked_fill_(kept, min(self.tasks_seen, 255))  # later tasks keep nothing: all is owned
        self._weights, self._still, self._kept = {}, {}, {}
        free = sum(int((owner == _FREE).sum()) for owner in self._owners.values())
        return {"free_weights": free / sum(owner.numel() for owner in self._owners.values())}

    @contextmanager
    def playing(self, trunk: nn.Module, task: int) -> Iterator[None]:
        """Within the block, mask all weights that belong neither to a finished task nor to earlier ones.

        Raises:
            ValueError: the owners belong to another network.
        """
        if task > self.tasks_seen:
            yield
            return
        weights = _weights(trunk)
        saved.check_fit(self._owners, weights, "{}.owner")
        before = {name: weight.detach().clone() for name, weight in weights.items()}
        with torch.no_grad():
            for name, weight in weights.items():
                owner = self._owners[name].to(weight.device)
                weight.masked_fill_((owner == _FREE) | (owner > task), 0.0)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, weight in weights.items():
                    weight.copy_(before[name])

    def state(self) -> MethodState:
        """Return the owners, the number of tasks seen and, between pruning and the end of a task, its masks."""
        tensors = saved.named(self._owners, "owner") | saved.named(self._kept, "kept")
        return MethodState(tensors, {"tasks_seen": self.tasks_seen})

    def state_tensors(self, network: Network) -> dict[str, saved.TensorLayout]:
        """Return the owner of each weight and, between a task's pruning and its end, the mask of those it keeps."""
        return saved.layouts(_weights(network.trunk), owner=torch.uint8, kept=torch.bool)

    def describe(self, state: MethodState) -> list[str]:
        """Return the share of weights that each task owns."""
        owners, _ = saved.split(state.tensors, "owner", "kept")
        if not owners:
            return []
        counts = torch.stack([owner.flatten().bincount(minlength=256) for owner in owners.values()]).sum(0)
        shares = (counts / counts.sum()).tolist()
        owned = [f"task {task} {share:.1%}" for task, share in enumerate(shares) if task and share]
        return [f"weights owned: {', '.join([*owned, f'free {shares[_FREE]:.1%}'])}"]

    def kept_bytes(self, network: Network) -> int:
        """Return the bytes of the owners: at the end of a task the mask has gone."""
        return sum(weight.numel() for weight in _weights(network.trunk).values())

    def load_state(self, state: MethodState) -> None:
        """Load a saved state; it is checked against the trunk when it is used."""
        self._owners, self._kept = saved.split(state.tensors, "owner", "kept")
        self._weights, self._still = {}, {}
        self.tasks_seen = int(state.values["tasks_seen"])

    @torch.no_grad()
    def _prune(self) -> None:
        """Keep the ⌈n / tasks left⌉ largest of each layer's n free weights, which makes all shares equal."""
        tasks_left = max(1, self._tasks - self.tasks_seen)
        for name, weight in self._weights.items():
            free = self._owners[name] == _FREE
            self._kept[name] = _largest(weight, free, -(-int(free.sum()) // tasks_left))  # −(−a // b) = ⌈a / b⌉
            self._still[name] = ~self._kept[name]
        self.after_step()


def _weights(trunk: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trunk's parameters that are divided: all but biases and other vectors."""
    return {name: parameter for name, parameter in trunk.named_parameters() if parameter.dim() > 1}


def _like(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Return zeros in the weight's shape and memory layout."""
    return torch.zeros_like(weight, dtype=dtype, requires_grad=False)


def _largest(weight: Tensor, among: Tensor, count: int) -> Tensor:
    """Return a mask of the ``count`` entries of ``weight`` of largest magnitude where ``among`` is true."""
    sizes = weight.abs().masked_fill_(~among, -1.0).flatten()  # below any magnitude, so never among the largest
    chosen = torch.zeros_like(sizes, dtype=torch.bool)
    chosen[sizes.topk(count).indices] = True
    return _like(weight, torch.bool).copy_(chosen.view(weight.shape))
