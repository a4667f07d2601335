"""Adam, without torch's compiler behind it.

At the first call of any optimizer's method torch imports its compiler, only to tell it to leave that method alone:
1.4 s of CPU time and 70 MB in every process (torch 2.13), also in those that only play. Nothing is compiled here, so
the methods are taken as they are below that.
"""

from __future__ import annotations

import inspect

import torch


class Adam(torch.optim.Adam):
    """torch's own Adam, to the bit."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)
