"""Emulates CUDA graphs on the CPU: a capture holds operations and their memory, not the Python code around them.

As on a GPU, a capture executes nothing, a replay repeats the operations on the same memory, and reading a tensor's
value during a capture is an error.
"""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import ClassVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from blip_rl.learner import base_ppo, cuda_graph

HOST_READS = ("item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__float__", "__int__", "__index__")


def tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


class EmulatedGraph(TorchDispatchMode):
    """In place of ``torch.cuda.CUDAGraph``.

    Attributes:
        captured: All graphs since :func:`emulate_cuda_graphs`.
        replays: Number of replays of this graph.
    """

    captured: ClassVar[list] = []

    def __init__(self):
        super().__init__()
        self._operations, self._own, self._before, self.replays = [], set(), {}, 0
        EmulatedGraph.captured.append(self)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        assert func is not torch.ops.aten._local_scalar_dense.default, "read a tensor's value"
        if func._schema.is_mutable:
            # Dispatch executes the operation: keep what it overwrites, to undo it after the capture.
            for tensor in tensors((args, kwargs)):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self._own | self._before.keys():
                    self._before[storage.data_ptr()] = (storage, storage.clone())
        out = func(*args, **kwargs)
        given = {tensor.untyped_storage().data_ptr() for tensor in tensors((args, kwargs))}
        self._own |= {tensor.untyped_storage().data_ptr() for tensor in tensors(out)} - given
        self._operations.append((func, args, kwargs, out))
        return out

    def __len__(self):
        return len(self._operations)

    @contextmanager
    def capturing(self):
        with no_host_reads(), self:
            yield
        for storage, before in self._before.values():
            storage.copy_(before)

    @torch.no_grad()
    def replay(self):
        self.replays += 1
        for func, args, kwargs, out in self._operations:
            for place, result in zip(tensors(out), tensors(func(*args, **kwargs)), strict=True):
                if place.data_ptr() != result.data_ptr():
                    place.copy_(result)


@contextmanager
def no_host_reads():
    """A block in which reading a tensor's value raises."""

    def rejecting(name):
        def reject(*_, **__):
            raise AssertionError(f"Tensor.{name} waits for the device")

        return reject

    before = {name: getattr(torch.Tensor, name) for name in HOST_READS}
    for name in HOST_READS:
        setattr(torch.Tensor, name, rejecting(name))
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(torch.Tensor, name, method)


def emulate_cuda_graphs(patch, *, actions=True, failing=False):
    """Let agents on the CPU capture emulated graphs.

    Args:
        patch: pytest's ``monkeypatch``.
        actions: Whether the choice of actions is captured too; if not, rollouts equal those of an eager agent.
        failing: Whether every capture fails.
    """

    def graph(emulated, stream):
        if failing:
            raise RuntimeError("operation not permitted when stream is capturing")
        return emulated.capturing()

    stream = SimpleNamespace(wait_stream=lambda other: None)
    cuda = SimpleNamespace(
        Stream=lambda device: stream,
        current_stream=lambda *_: stream,
        device=lambda device: nullcontext(),
        stream=lambda stream: nullcontext(),
        CUDAGraph=EmulatedGraph,
        graph=graph,
    )
    EmulatedGraph.captured = []
    patch.setattr(cuda_graph, "torch", SimpleNamespace(**{**vars(torch), "cuda": cuda}))
    for module in (cuda_graph, base_ppo):
        patch.setattr(module, "can_capture", lambda device: True)
    if not actions:
        collector = base_ppo.Collector
        patch.setattr(base_ppo, "Collector", lambda env, policy, capture: collector(env, policy, capture=False))
