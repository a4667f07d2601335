"""Zips with too many, too large, damaged or unusually compressed members."""

import io
import resource
import struct
import time
import zipfile

import pytest

from blip_rl.errors import UserError
from blip_rl.untrusted.zips import open_zip, read_member


def zipped(members, method=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def read(content, member="data", most=1_000_000):
    with open_zip("x", io.BytesIO(content)) as archive:
        return read_member("x", archive, member, most)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_is_read(method):
    assert read(zipped({"data": b"abc" * 99, "other": b""}, method)) == b"abc" * 99


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a zip"),
        (b"PK\x03\x04 but not really", "not a zip"),
        (zipped({"other": b""}), "has no 'data'"),
        (zipped({"data": bytes(1_000_001)}), "larger than 1,000,000 bytes"),
        (zipped({"data": b"a" * 99}, zipfile.ZIP_LZMA), "compressed by method 14"),
        (zipped({"data": b"a" * 99}, zipfile.ZIP_BZIP2), "compressed by method 12"),
    ],
)
def test_an_unreadable_zip_is_refused_with_the_reason(content, message):
    with pytest.raises(UserError, match=message):
        read(content)


def test_duplicate_members_are_refused():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data", b"one")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("data", b"two")
    with pytest.raises(UserError, match="duplicate names"):
        read(file.getvalue())


def test_a_zip_bomb_is_not_unpacked():
    content = zipped({"data": bytes(200_000_000)}, zipfile.ZIP_DEFLATED)
    assert len(content) < 1_000_000
    began, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="that become 200,000,000"):
        read(content, most=2_000_000_000)
    assert time.process_time() - began < 0.1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 50_000


def _with_size(content, size):
    """Return the zip with this member size in its central directory."""
    at = content.rindex(b"PK\x01\x02")
    return content[: at + 24] + struct.pack("<I", size) + content[at + 28 :]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("size", [1, 98, 100, 500_000])
def test_a_member_of_another_length_than_declared_is_damaged(method, size):
    with pytest.raises(UserError, match="damaged"):
        read(_with_size(zipped({"data": b"a" * 99}, method), size))


def test_a_zip_of_too_many_members_is_refused():
    content = zipped({f"{number}": b"" for number in range(6_000)})
    with pytest.raises(UserError, match="6,000 members"):
        read(content)
    at = content.rindex(b"PK\x05\x06")
    many = content[:at] + bytes(3_000_000) + content[at : at + 12] + struct.pack("<I", 3_000_000) + content[at + 16 :]
    with pytest.raises(UserError, match="a directory of 3,000,000 bytes"):
        read(many)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_flipped_byte_is_detected_or_harmless(method):
    whole = bytes(range(200))
    content = zipped({"data": whole}, method)
    for at in range(len(content)):
        try:
            assert read(content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :]) == whole
        except UserError as error:
            assert str(error).startswith("x")  # noqa: PT017
