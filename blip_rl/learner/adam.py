"""torch's Adam without the import of torch's compiler."""

from __future__ import annotations

import inspect

import torch


class Adam(torch.optim.Adam):
    """torch's own Adam, bit-identical, without the import of torch's compiler.

    torch wraps the methods of its optimizers in ``torch._disable_dynamo``. The first call of any imports the compiler,
    only to exclude the method from it: 1.4 s of CPU time and 70 MB in every process (torch 2.13), also in those that
    only evaluate. Nothing here is compiled, so the wrapped functions are used directly, those that training calls.
    """

    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
