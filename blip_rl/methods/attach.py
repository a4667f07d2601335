"""Attach a method to an optimizer: its hooks run inside ``backward`` and after each optimizer step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from blip_rl.errors import UserError
from blip_rl.methods.base import Method


@contextmanager
def attached(
    method: Method, trunk: nn.Module, optimizer: torch.optim.Optimizer, *, task: int = 0, resume: bool = False
) -> Iterator[Method]:
    """Attach a method to a trunk and its optimizer for one task; detach at the end, also after an error.

    Args:
        method: Protects the trunk.
        trunk: The shared layers.
        optimizer: Steps the trunk's parameters.
        task: Number of the task, counted from 1; the number of an earlier task if it comes back. 0: a new task.
        resume: Whether to resume a task in its middle, from a loaded state.
    """
    method.task = task
    if resume:
        _resume(method, trunk)
    else:
        method.start_task(trunk)
    handles: list[Any] = [optimizer.register_step_post_hook(lambda *_: method.after_step())]
    if type(method).add_gradient is not Method.add_gradient:
        # Post-accumulate hooks fire inside backward(): before the norm is clipped, with any training loop.
        handles += [
            parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                lambda p, name=name: method.add_gradient(name, p)
            )
            for name, parameter in trunk.named_parameters()
        ]
    try:
        yield method
    finally:
        for handle in handles:
            handle.remove()


def _resume(method: Method, trunk: nn.Module) -> None:
    """Resume a method in the middle of a task; its state may come from a damaged file."""
    try:
        method.resume_task(trunk)
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"the saved state of {type(method).__name__} does not fit this network: {error}") from error
