"""Shapes in the annotations of ``blip_rl.core`` are checked under pytest."""

import subprocess
import sys

import pytest
import torch
from jaxtyping import TypeCheckError

from blip_rl.core import bits, fisher, subspace

CALLS = {
    "bits that do not broadcast": lambda: bits.quantize(torch.zeros(2, 3), torch.zeros(3, 2, dtype=torch.uint8), 1.0),
    "bits that are floats": lambda: bits.freeze(torch.zeros(3), torch.zeros(3)),
    "a scalar remainder": lambda: bits.project_and_quantize_(*map(torch.zeros, (3, (), 3, 3)), 1.0, 20),
    "a Fisher of integers": lambda: bits.running_fisher(torch.zeros(3, dtype=torch.long), torch.ones(3), 1),
    "inputs of another size": lambda: subspace.importance(torch.zeros(5, 4).double(), torch.zeros(3, 2), 1.0),
    "a scalar observation": lambda: fisher.diagonal_fisher(torch.nn.Linear(2, 2), lambda y: y, torch.zeros(())),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_wrong_shape_or_dtype_raises_under_pytest(call):
    with pytest.raises(TypeCheckError, match=r"Type-check error whilst checking the parameters of blip_rl\.core"):
        call()


def test_shapes_are_not_checked_outside_of_pytest():
    code = """
import torch
from blip_rl.core import bits
assert not hasattr(bits.freeze, "__wrapped__")
bits.freeze(torch.zeros(3), torch.zeros(3))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
