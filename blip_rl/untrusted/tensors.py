"""Reader for the headers of safetensors files; allocates nothing for the tensors themselves.

The format: eight bytes with the header's length, the header in JSON, and the tensors' bytes without gaps
(https://huggingface.co/docs/safetensors).
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from blip_rl.errors import UserError, first_problem
from blip_rl.untrusted.files import open_regular, parse_json

_LENGTH_BYTES = 8
_MOST_HEADER_BYTES = 4_000_000
_MOST_TENSORS = 20_000
_MOST_DIMENSIONS = 8
_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
_BYTES |= {"I8": 1, "U8": 1, "BOOL": 1}
_Count = Annotated[int, Field(strict=True, ge=0)]


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


@dataclass(frozen=True)
class _Entry:
    """An entry of the header."""

    dtype: Annotated[str, Field(pattern=f"^({'|'.join(_BYTES)})$")]
    shape: Annotated[tuple[_Count, ...], Field(max_length=_MOST_DIMENSIONS)]
    data_offsets: tuple[_Count, _Count]

    @property
    def spec(self) -> TensorSpec:
        return TensorSpec(self.dtype, self.shape)


_HEADER = TypeAdapter(Annotated[dict[str, _Entry], Field(max_length=_MOST_TENSORS)])


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
        header.pop("__metadata__", None)
        entries = _HEADER.validate_python(header)
        end = 0
        for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
            start, stop = entry.data_offsets
            if start != end or stop - start != entry.spec.size:
                raise ValueError(f"{name!r}: bytes {start:,} to {stop:,}, expected {entry.spec.size:,} from {end:,}")
            end = stop
        if end != data_bytes:
            raise ValueError(f"its tensors take {end:,} bytes, and {data_bytes:,} are there")
        return {name: entry.spec for name, entry in entries.items()}
    except UserError:
        raise
    except (ValueError, TypeError, AttributeError) as error:
        problem = first_problem(error) if isinstance(error, ValidationError) else error
        raise UserError(f"'{path}' is not a safetensors file: {problem}") from error
