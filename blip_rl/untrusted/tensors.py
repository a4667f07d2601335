"""Reader for the headers of safetensors files; allocates nothing for the tensors themselves.

The format: eight bytes with the header's length, the header in JSON, and the tensors' bytes without gaps
(https://huggingface.co/docs/safetensors).
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blip_rl.errors import UserError
from blip_rl.untrusted.files import open_regular, parse_json

_LENGTH_BYTES = 8
_MOST_HEADER_BYTES = 4_000_000
_MOST_TENSORS = 20_000
_MOST_DIMENSIONS = 8
_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
_BYTES |= {"I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True)
class TensorSpec:
    """Data type (``F32``, ``U8``, …) and shape of a tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Size in bytes."""
        return _BYTES[self.dtype] * math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


def read_header(path: Path) -> dict[str, TensorSpec]:
    """Return the data type and shape of each tensor by name.

    Raises:
        UserError: Not a safetensors file, tensors do not fill the file exactly, or the header is larger than 4 MB.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if not 2 <= length <= min(_MOST_HEADER_BYTES, size - _LENGTH_BYTES):
            raise UserError(f"'{path}' is not a safetensors file: its header claims a length of {length:,} bytes")
        text = file.read(length)
    return _specs(path, text, size - _LENGTH_BYTES - length)


def _specs(path: Path, text: bytes, data_bytes: int) -> dict[str, TensorSpec]:
    try:
        header = parse_json(text.decode("utf-8"), f"'{path}'")
        entries = {str(name): entry for name, entry in header.items() if name != "__metadata__"}
        if len(entries) > _MOST_TENSORS:
            raise ValueError(f"{len(entries):,} tensors")
        places = sorted(_place(name, entry) for name, entry in entries.items())
        end = 0
        for start, stop, name in places:
            if start != end:
                raise ValueError(f"{name!r} does not begin where the tensor before it ends")
            end = stop
        if end != data_bytes:
            raise ValueError(f"its tensors take {end:,} bytes, and {data_bytes:,} are there")
        return {name: _tensor(entry) for name, entry in entries.items()}
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"'{path}' is not a safetensors file: {error}") from error


def _place(name: str, entry: dict[str, Any]) -> tuple[int, int, str]:
    """Return start, end and name of a tensor; check that its bytes fit its data type and shape."""
    start, stop = (_checked_count(number) for number in entry["data_offsets"])
    size = _tensor(entry).size
    if stop - start != size:
        raise ValueError(f"{name!r} takes {stop - start:,} bytes, expected {size:,}")
    return start, stop, name


def _tensor(entry: dict[str, Any]) -> TensorSpec:
    shape = tuple(_checked_count(side) for side in entry["shape"])
    if entry["dtype"] not in _BYTES or len(shape) > _MOST_DIMENSIONS:
        raise ValueError(f"a tensor of {entry['dtype']!r} with {len(shape)} dimensions")
    return TensorSpec(entry["dtype"], shape)


def _checked_count(number: Any) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise ValueError(f"{number!r} where a count belongs")
    return number
