"""A function as torch.compile makes it, where a compiler works."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]


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
