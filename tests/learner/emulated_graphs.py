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

LOOKS = ("item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__float__", "__int__", "__index__")


def tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


class Tape(TorchDispatchMode):
    """In place of ``torch.cuda.CUDAGraph``."""

    made: ClassVar[list] = []

    def __init__(self):
        super().__init__()
        self._operations, self._own, self._before, self.replays = [], set(), {}, 0
        Tape.made.append(self)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        assert func is not torch.ops.aten._local_scalar_dense.default, "looked into a tensor"
        if func._schema.is_mutable:
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
    def recording(self):
        with no_looks(), self:
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
def no_looks():
    """A block in which nobody may ask what is in a tensor."""

    def refuse(name):
        def look(*_, **__):
            raise AssertionError(f"Tensor.{name} waits for the device")

        return look

    before = {name: getattr(torch.Tensor, name) for name in LOOKS}
    for name in LOOKS:
        setattr(torch.Tensor, name, refuse(name))
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(torch.Tensor, name, method)


def acted_out(patch, recording, failing=False):
    """Let the module record on tape."""

    def graph(tape, stream):
        if failing:
            raise RuntimeError("operation not permitted when stream is capturing")
        return tape.recording()

    stream = SimpleNamespace(wait_stream=lambda other: None)
    cuda = SimpleNamespace(
        Stream=lambda device: stream,
        current_stream=lambda *_: stream,
        device=lambda device: nullcontext(),
        stream=lambda stream: nullcontext(),
        CUDAGraph=Tape,
        graph=graph,
    )
    Tape.made = []
    patch.setattr(recording, "torch", SimpleNamespace(**{**vars(torch), "cuda": cuda}))
    patch.setattr(recording, "can_capture", lambda device: True)
