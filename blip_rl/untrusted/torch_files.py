"""Safe reader for tensors in files of ``torch.save``: no code execution, no allocation beyond the size of the file.

Such a file is a zip with a pickle that describes the tensors, and one member with the bytes of each storage.
``torch.load(weights_only=True)`` executes no code either, but lets a pickle call functions that allocate memory, and
its tensors may be views with many more elements than their storage. Therefore the opcodes of the pickle are checked
before it is loaded, and the tensors before they are used.
"""

from __future__ import annotations

import io
import math
import pickletools
import struct
import zipfile
from pathlib import PurePosixPath
from pickle import UnpicklingError

import torch
from torch import Tensor

from blip_rl.errors import UserError
from blip_rl.untrusted.zips import open_zip, read_member

_MOST_PICKLE_BYTES = 1_000_000
_MOST_NAMES = 4  # references to a storage, on average; stable-baselines3 stores a shared extractor under three names
_STORAGES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_GLOBALS = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    *(f"torch {kind}Storage" for kind in _STORAGES),
}
# Pickle opcodes that torch.save writes for a dictionary of tensors, in protocol 2.
_INSTRUCTIONS = {
    "PROTO", "STOP", "MARK", "GLOBAL", "REDUCE", "BUILD", "BINPERSID", "NONE", "NEWTRUE", "NEWFALSE",
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET",
    "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM",
    "SETITEMS",
}  # fmt: skip
_WHAT_TORCH_RAISES = (
    EOFError, UnpicklingError, RuntimeError, LookupError, TypeError, ValueError, AttributeError, AssertionError,
    ArithmeticError, struct.error, MemoryError,
)  # fmt: skip


def load_tensors(name: str, content: bytes) -> dict[str, Tensor]:
    """Read a dictionary of tensors by name.

    Args:
        name: Name of the file in messages.
        content: Bytes written by ``torch.save``, version 1.6 or later.

    Returns:
        Tensors on the CPU, none of which has more elements than the file has bytes for.

    Raises:
        UserError: The file is damaged, or holds anything but a dictionary of plain tensors.
    """
    clean = _with_checked_pickle(name, content)
    try:
        tensors = torch.load(clean, map_location="cpu", weights_only=True)
        if not isinstance(tensors, dict) or not all(isinstance(key, str) for key in tensors):
            raise UserError(f"{name} is not a dictionary of tensors: expected a file of stable-baselines3")
        for key, tensor in tensors.items():
            _check_tensor(name, key, tensor)
        if sum(tensor.nbytes for tensor in tensors.values()) > _MOST_NAMES * len(content):
            raise UserError(f"{name}: its tensors share their storages more than {_MOST_NAMES} times")
    except UserError:
        raise
    except _WHAT_TORCH_RAISES as error:
        raise UserError(f"{name} is not a file of torch.save, or damaged: {str(error)[:200]}") from error
    return dict(tensors)


def _with_checked_pickle(name: str, content: bytes) -> io.BytesIO:
    """Check the pickle and rewrite the zip: torch's zip reader might parse a crafted file differently than zipfile."""
    if content[:2] != b"PK":
        raise UserError(
            f"{name} is damaged, or of a torch older than 1.6, from 2020 (load and save the agent with a newer one)"
        )
    clean = io.BytesIO()
    with open_zip(name, io.BytesIO(content)) as archive, zipfile.ZipFile(clean, "w") as checked:
        pickles = [member for member in archive.namelist() if PurePosixPath(member).name == "data.pkl"]
        if len(pickles) != 1 or sum(info.file_size for info in archive.infolist()) > len(content):
            raise UserError(f"{name} is not a file of torch.save, or damaged: its members are not as torch writes them")
        root = pickles[0].removesuffix("data.pkl")
        _check_pickle(name, read_member(name, archive, pickles[0], _MOST_PICKLE_BYTES))
        for member in archive.namelist():
            inside = member.removeprefix(root)
            if inside in ("data.pkl", "version", ".format_version", "byteorder") or inside.startswith("data/"):
                checked.writestr(f"archive/{inside}", read_member(name, archive, member, len(content)))
    clean.seek(0)
    return clean


def _check_pickle(name: str, content: bytes) -> None:
    """Raise if the pickle has opcodes or globals that a dictionary of tensors does not need."""
    try:
        for instruction, argument, _ in pickletools.genops(content):
            if instruction.name not in _INSTRUCTIONS:
                raise UserError(
                    f"{name} has the instruction {instruction.name} in its pickle: not tensors alone, or damaged"
                )
            if instruction.name == "GLOBAL" and argument not in _GLOBALS:
                raise UserError(f"{name} names {str(argument)[:80]!r} in its pickle: not tensors alone, or damaged")
    except (ValueError, LookupError, struct.error) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{name} is not a file of torch.save, or damaged: {str(error)[:200]}") from error


def _check_tensor(name: str, key: str, tensor: object) -> None:
    """Raise if ``tensor`` is not a plain tensor, or a view with more elements than its storage."""
    if type(tensor) not in (Tensor, torch.nn.Parameter):
        raise UserError(f"{name}: {key[:80]!r} is a {type(tensor).__name__}: expected only tensors")
    assert isinstance(tensor, Tensor)
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise UserError(f"{name}: {key[:80]!r} is a tensor of another kind than weights are")
    needed = math.prod(tensor.shape) * tensor.element_size()
    if needed > tensor.untyped_storage().nbytes():
        raise UserError(
            f"{name}: {key[:80]!r} of shape {tuple(tensor.shape)} needs {needed:,} bytes, but the file has "
            f"{tensor.untyped_storage().nbytes():,} for it"
        )
