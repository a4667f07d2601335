"""How exactly a GPU multiplies: what torch decides for the whole process, decided for a block."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from blip_rl.config import Precision

Function = Callable[[Tensor], Tensor]


@contextmanager
def matmul_precision(precision: Precision, device: torch.device) -> Iterator[None]:
    """Within the block, matrix products and convolutions of float32 tensors on CUDA are exact, or TF32 where asked for.

    TF32 keeps 10 bits behind the leading one instead of 23. torch's own default is TF32 for convolutions alone.
    Nothing happens on a CPU.
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
    """From now on float32 means float32 on CUDA, outside of every block that says otherwise: also for a Fisher."""
    if device.type == "cuda":
        for module, name, value in _switches("float32"):
            setattr(module, name, value)


def rounded(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """A block whose matrix products and convolutions take bfloat16 where that is asked for; weights stay float32.

    A weight's copy in bfloat16 is not kept for the next product: it would outlive a recording that made it.
    """
    if precision != "bfloat16":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False)


def _switches(precision: Precision) -> list[tuple[Any, str, Any]]:
    """(where, name, value) of torch's settings."""
    coarse = precision == "tf32"
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        value = "tf32" if coarse else "ieee"
        return [
            (torch.backends.cuda.matmul, "fp32_precision", value),
            (torch.backends.cudnn.conv, "fp32_precision", value),  # type: ignore[attr-defined]
        ]
    # torch before 2.9.
    return [(torch.backends.cuda.matmul, "allow_tf32", coarse), (torch.backends.cudnn, "allow_tf32", coarse)]


class Compiled:
    """Compiled at the first call, forward and backward; where that fails it is run as it is, with one warning."""

    def __init__(self, function: Function, parameters: Sequence[Tensor]) -> None:
        """Take a function of a tensor and the parameters that its output has gradients for."""
        self._function, self._parameters = function, parameters
        self._chosen: Function | None = None

    def __call__(self, inputs: Tensor) -> Tensor:
        """Run it."""
        if self._chosen is None:
            self._chosen = self._tried(inputs)
        return self._chosen(inputs)

    def _tried(self, inputs: Tensor) -> Function:
        """The compiled function, once it has run forward and backward; else the function."""
        compiled = torch.compile(self._function)
        try:
            with torch.enable_grad():
                torch.autograd.grad(compiled(inputs).sum(), self._parameters)  # no parameter's own .grad, no hooks
        except Exception as error:  # compilers fail in as many ways as there are of them
            first_line = f"{type(error).__name__}: {error}".splitlines()[0]
            warnings.warn(f"torch.compile does not work here ({first_line}); going on without it", stacklevel=4)
            return self._function
        return compiled
