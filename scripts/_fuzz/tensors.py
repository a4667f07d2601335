"""Random mutations of safetensors files: of the header, of the bytes, or of both consistently."""

from __future__ import annotations

import json
import random
import struct
from typing import Any

import numpy as np

from _fuzz import change

_SHAPES = ([], [0], [1], [0, 0], [2**40], [2**62, 4], [1] * 9, [65_536, 65_536], [3, 5], [-1], [1.5])
_DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "U8", "BOOL", "F8_E4M3", "X", "", None, 3)
_SIZES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "U8": 1, "BOOL": 1}


def tensor_file(draw: random.Random, content: bytes) -> bytes:
    """Mutate a safetensors file."""
    operation = draw.randrange(10)
    if operation == 0:
        return change.letters(draw, content)
    if operation == 1:
        return struct.pack("<Q", draw.choice((0, 1, 2**31, 2**63, 2**64 - 1, 100_000_001))) + content[8:]
    length = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    if operation < 4:
        return _joined(change.tree(draw, header), data)
    tensors = {
        name: (entry["dtype"], entry["shape"], data[slice(*entry["data_offsets"])])
        for name, entry in header.items()
        if name != "__metadata__"
    }
    for _ in range(draw.choice((1, 1, 3))):
        tensors = _changed(draw, tensors)
    return _written(tensors)


def _changed(draw: random.Random, tensors: dict[str, Any]) -> dict[str, Any]:
    """Mutate the name, dtype, shape or data of one tensor; the file stays well-formed."""
    if not tensors:
        return {"trunk.fc1.weight": ("F32", [2, 2], bytes(16))}
    name = draw.choice(sorted(tensors))
    dtype, shape, data = tensors.pop(name)
    operation = draw.randrange(6)
    if operation == 0:
        return tensors
    if operation == 1:
        name = draw.choice((name + "x", name.rpartition(".")[0], f"0.{name}", f"optimizer.{name}", *change.TEXTS[:10]))
    elif operation == 2:
        dtype, shape = draw.choice(_DTYPES), draw.choice((shape, *_SHAPES))
        data = bytes(min(_bytes(dtype, shape), 10_000))
    elif operation == 3:
        shape = [side + draw.choice((0, 0, 1, -1, 7)) for side in shape] or [draw.choice((1, 2))]
        data = (data * 64)[: max(0, _bytes(dtype, shape))]
    elif operation == 4:
        numbers = np.frombuffer(data, np.uint8).copy()
        if numbers.size:
            numbers[draw.randrange(numbers.size) :] = draw.choice((0, 0x7F, 0xFF, 0x80, 1))
        data = numbers.tobytes()
    elif dtype == "F32":
        data = np.full(len(data) // 4, draw.choice((np.nan, np.inf, 3e38, -3e38, 1e-40)), np.float32).tobytes()
    return {**tensors, name: (dtype, shape, data)}


def _bytes(dtype: Any, shape: list[Any]) -> int:
    size = _SIZES.get(dtype, 1) if isinstance(dtype, str) else 1
    for side in shape:
        size *= int(side)
    return max(0, size)


def _written(tensors: dict[str, Any]) -> bytes:
    header, data = {}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    return _joined(header, data)


def _joined(header: Any, data: bytes) -> bytes:
    text = json.dumps(header, default=str).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + data
