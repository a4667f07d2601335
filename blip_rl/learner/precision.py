"""Precision of matrix products on a GPU, set per block instead of per process, and torch.compile with a fallback."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from blip_rl.setting_types import Precision

Function = Callable[[Tensor], Tensor]


@contextmanager
def matmul_precision(precision: Precision, device: torch.device) -> Iterator[None]:
    """Set the precision of float32 matrix products and convolutions on CUDA within a block; does nothing on a CPU.

    TF32 has 10 mantissa bits instead of 23. torch's default is TF32 for convolutions only.
    """
    if device.type != "cuda":
        yield
        return
    before = [(module, name, getattr(module, name)) for module, name, _ in _switches(precision)]
    for module, name, value in _switches(precision):
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def disable_tf32(device: torch.device) -> None:
    """Use IEEE float32 on CUDA from now on, outside of :func:`matmul_precision` blocks: the Fisher needs it too."""
    if device.type == "cuda":
        for module, name, value in _switches("float32"):
            setattr(module, name, value)


def autocast_trunk(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """Return an autocast block for ``precision = "bfloat16"``, else an empty one; weights stay float32.

    The autocast cache is off: a cached bfloat16 weight would outlive the CUDA graph whose memory pool holds it.
    """
    if precision != "bfloat16":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False)


def _switches(precision: Precision) -> list[tuple[Any, str, Any]]:
    """List torch's settings as (module, name, value)."""
    coarse = precision == "tf32"
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        value = "tf32" if coarse else "ieee"
        return [
            (torch.backends.cuda.matmul, "fp32_precision", value),
            (torch.backends.cudnn.conv, "fp32_precision", value),  # type: ignore[attr-defined]
        ]
    # Before torch 2.9.
    return [(torch.backends.cuda.matmul, "allow_tf32", coarse), (torch.backends.cudnn, "allow_tf32", coarse)]


class Compiled:
    """A function compiled with torch.compile on its first call; runs eagerly, after one warning, where that fails."""

    def __init__(self, function: Function, parameters: Sequence[Tensor]) -> None:
        """Wrap a function.

        Args:
            function: Maps one tensor to another.
            parameters: Parameters that the output has gradients for; used to try the backward pass.
        """
        self._function, self._parameters = function, parameters
        self._chosen: Function | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the compiled function out of a copy: it is bound to the parameters of the original."""
        return {**self.__dict__, "_chosen": None}

    def __call__(self, inputs: Tensor) -> Tensor:
        """Run the function, compiled if possible."""
        if self._chosen is None:
            self._chosen = self._tried(inputs)
        return self._chosen(inputs)

    def _tried(self, inputs: Tensor) -> Function:
        """Return the compiled function if it runs forward and backward, else the function itself."""
        compiled = torch.compile(self._function)
        try:
            with torch.enable_grad():
                torch.autograd.grad(compiled(inputs).sum(), self._parameters)  # leaves .grad alone and runs no hooks
        except Exception as error:  # every compiler backend raises its own types
            first_line = f"{type(error).__name__}: {error}".splitlines()[0]
            warnings.warn(f"torch.compile failed ({first_line}); running without it", stacklevel=4)
            return self._function
        return compiled
