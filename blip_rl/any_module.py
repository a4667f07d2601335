"""Apply a continual learning method to any PyTorch module and optimizer, without reinforcement learning."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from blip_rl.core.backward_passes import supported_layers
from blip_rl.errors import UserError
from blip_rl.methods.attach import attached
from blip_rl.methods.base import FinishedTask, Method


@contextmanager
def protect_module(
    trunk: nn.Module, optimizer: torch.optim.Optimizer, method: Method, *, seed: int = 0
) -> Iterator[ModuleGuard]:
    """Context manager that protects earlier tasks while a module learns one task with any training loop.

    The method acts within ``backward()`` and after every ``optimizer.step()``. It is detached when the block ends.

    Args:
        trunk: Layers shared by all tasks; every parameter belongs to an ``nn.Linear`` or ``nn.Conv2d``.
        optimizer: Steps the parameters of the trunk, and usually those of the task's head.
        method: Pass the same object for every task.
        seed: Seed of the method's random numbers.

    Yields:
        The guard, whose :meth:`ModuleGuard.end_task` consolidates the task.

    Raises:
        ValueError: the method, the trunk or the optimizer cannot be used, or the method has learned another network.
    """
    check_method(method)
    _check_trunk(trunk, {id(parameter) for group in optimizer.param_groups for parameter in group["params"]})
    guard = ModuleGuard(trunk, method, seed)
    with attached(method, trunk, optimizer):
        yield guard
    if not guard.ended:
        warnings.warn("the block ended without guard.end_task(loader, head): its task is not protected", stacklevel=3)


class ModuleGuard:
    """Consolidates one task; made by :func:`protect_module`."""

    def __init__(self, trunk: nn.Module, method: Method, seed: int) -> None:
        self.ended = False
        self._trunk, self._method, self._generator = trunk, method, torch.Generator().manual_seed(seed)

    def end_task(self, loader: Iterable[Any], head: Callable[[Tensor], Any]) -> dict[str, float]:
        """Consolidate the task just learned; call it once, after training and inside the block.

        The Fisher uses labels drawn from the model (BLIP Eq. 6), or all classes with ``fisher_expectation = "exact"``:
        never the loader's labels. Trunk and head are in evaluation mode meanwhile.

        Args:
            loader: The task's training data, shuffled: batches of inputs, or tuples that begin with inputs. It is read
                until there are ``method.samples_wanted`` inputs.
            head: Trunk output → the task's logits, shape (samples, classes), or a torch Distribution.

        Returns:
            Metrics of the method, by name.

        Raises:
            ValueError: a task has been consolidated already, there are no inputs, or the head's output is unusable.
        """
        if self.ended:
            raise UserError("guard.end_task called twice: open a new protect_module block for the next task")
        self._method.after_step()  # weights loaded after the last step, such as the best epoch's, are not yet projected
        inputs = _first_inputs(loader, self._method.samples_wanted)
        with _evaluation_mode(self._trunk, head):
            if len(inputs):
                self._check_head(head, inputs[:1])
            metrics = self._method.end_task(FinishedTask(self._trunk, head, inputs, lambda x: x, self._generator))
        self.ended = True
        return metrics

    @torch.no_grad()
    def _check_head(self, head: Callable[[Tensor], Any], one: Tensor) -> None:
        output = head(self._trunk(one.to(next(self._trunk.parameters()).device)))
        # Of one class the probability is always 1: its Fisher is 0, and the task would not be protected at all.
        logits = isinstance(output, Tensor) and output.dim() == 2 and len(output) == 1 and output.shape[1] > 1
        if not logits and not isinstance(output, Distribution):
            found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise UserError(
                f"the head returned {found} for one input: expected logits of shape (1, classes), at least two, or a "
                "torch Distribution, such as Bernoulli(logits=…) or Normal(…, …); pass this task's own head"
            )


def check_method(method: Method) -> None:
    """Raise UserError if the method needs hooks that only our own training loop calls."""
    hooks = ("loss", "playing", "at_progress", "schedule_remaining")
    missing = next((hook for hook in hooks if getattr(type(method), hook) is not getattr(Method, hook)), None)
    if method.interleaved or missing:
        raise UserError(
            f"{type(method).__name__} needs {missing or 'all tasks at once'!r}, which only blip-rl calls: "
            "expected a method with gradient and step hooks only, such as blip, ewc, l2, gpm, freeze or finetune"
        )


def _check_trunk(trunk: nn.Module, stepped: set[int]) -> None:
    for name, module in trunk.named_modules():
        if isinstance(module, _BatchNorm) or (isinstance(module, _NormBase) and module.track_running_stats):
            raise UserError(
                f"layer {name!r} is a {type(module).__name__}, whose statistics are of a batch or overwritten by every "
                "task: expected layers without, such as nn.LayerNorm(…, elementwise_affine=False); or move it to a head"
            )
    try:
        supported_layers(trunk)
    except TypeError as error:
        raise UserError(str(error)) from error
    for name, parameter in trunk.named_parameters():
        if parameter.dtype != torch.float32 or not parameter.requires_grad or id(parameter) not in stepped:
            raise UserError(
                f"parameter {name!r} is {parameter.dtype}, requires_grad={parameter.requires_grad}, "
                f"{'in' if id(parameter) in stepped else 'not in'} the optimizer: expected float32, trained by this "
                "optimizer; leave layers that do not learn out of the trunk (torch.autocast gives mixed precision)"
            )


def _first_inputs(loader: Iterable[Any], samples: int) -> Tensor:
    parts, found = list[Tensor](), 0
    for batch in loader if samples else ():
        inputs = batch[0] if isinstance(batch, tuple | list) and batch else batch
        if not isinstance(inputs, Tensor):
            raise UserError(f"the loader gave a {type(inputs).__name__}: expected inputs, or a tuple (inputs, labels)")
        parts.append(inputs[: samples - found])
        found += len(parts[-1])
        if found == samples:
            break
    if samples and not found:
        raise UserError("the loader gave 0 inputs: expected batches of the task's training data")
    return torch.cat(parts) if parts else torch.empty(0)


@contextmanager
def _evaluation_mode(*modules: Any) -> Iterator[None]:
    modes = {part: part.training for module in modules if isinstance(module, nn.Module) for part in module.modules()}
    try:
        for part in modes:
            part.training = False
        yield
    finally:
        for part, training in modes.items():
            part.training = training
