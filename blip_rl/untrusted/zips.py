"""Reader for zip files with a bounded number and size of members."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from blip_rl.errors import UserError

_MOST_MEMBERS = 5_000
_MOST_DIRECTORY_BYTES = 2_000_000
_FREE_BYTES = 64_000_000  # members up to this size may have any compression ratio
_MOST_RATIO = 20  # of larger members, against zip bombs; weights hardly compress
_DIRECTORY_SIZE = 5  # index in the record returned by zipfile._EndRecData
_METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}
_WHAT_ZIPFILE_RAISES = (
    zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError, LookupError, OverflowError,
    struct.error,
)  # fmt: skip


@contextmanager
def open_zip(name: str, file: BinaryIO) -> Iterator[zipfile.ZipFile]:
    """Open a zip file after checking the size of its central directory.

    Args:
        name: Name of the file in messages.
        file: Its content.

    Raises:
        UserError: Not a zip file, damaged, too many members, or duplicate names.
    """
    with _as_user_errors(name):
        # Use zipfile's private parser: another parser might find a different directory in a crafted file.
        end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
        if not end:
            raise zipfile.BadZipFile("it has no list of members")
        if end[_DIRECTORY_SIZE] > _MOST_DIRECTORY_BYTES:
            raise UserError(f"{name} has a directory of {end[_DIRECTORY_SIZE]:,} bytes: not a saved agent")
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            if len(names) > _MOST_MEMBERS or len(set(names)) < len(names):
                raise UserError(
                    f"{name} has {len(names):,} members, too many or with duplicate names: not a saved agent"
                )
            yield archive


def read_member(name: str, archive: zipfile.ZipFile, member: str, most: int) -> bytes:
    """Read one member.

    Args:
        name: Name of the archive in messages.
        archive: From :func:`open_zip`.
        member: Name of the member.
        most: Maximum uncompressed size in bytes.

    Raises:
        UserError: The member is missing, larger than ``most`` bytes, neither stored nor deflated, encrypted, damaged,
            or its compression ratio is implausible.
    """
    info = archive.NameToInfo.get(member)
    if info is None:
        raise UserError(f"{name} has no {member!r} in it: expected a zip that stable-baselines3 saved")
    if info.flag_bits & 1 or info.compress_type not in _METHODS:
        how = "encrypted" if info.flag_bits & 1 else f"compressed by method {info.compress_type}"
        raise UserError(f"{name}: {member!r} is {how}: expected a member that is stored or deflated")
    if info.file_size > most:
        raise UserError(f"{name}: {member!r} is larger than {most:,} bytes: agents of this size are not read")
    if info.file_size > max(_FREE_BYTES, _MOST_RATIO * info.compress_size):
        raise UserError(
            f"{name}: {member!r} is {info.compress_size:,} bytes that become {info.file_size:,}: weights do not "
            f"compress to less than 1/{_MOST_RATIO}"
        )
    with _as_user_errors(name), archive.open(info) as stream:
        content = stream.read(info.file_size)
        if len(content) != info.file_size or stream.read(1):
            raise zipfile.BadZipFile(f"{member!r} has another length than it declares")
        return content


@contextmanager
def _as_user_errors(name: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except _WHAT_ZIPFILE_RAISES as error:
        raise UserError(f"{name} is not a zip of stable-baselines3, or damaged: {str(error)[:200]}") from error
