"""Files of torch.save that claim more data than they hold, or call functions, are refused before they are loaded."""

import _codecs
import collections
import io
import pickle
import resource
import time
import zipfile

import pytest
import torch

from blip_rl.errors import UserError
from blip_rl.untrusted.torch_files import load_tensors


def saved(tensors, **options):
    file = io.BytesIO()
    torch.save(tensors, file, **options)
    return file.getvalue()


class Calling:
    """Pickled as a function call."""

    def __init__(self, function, *arguments):
        self._call = function, arguments

    def __reduce__(self):
        return self._call


@pytest.fixture(autouse=True)
def _cheap():
    """Limit each test to 3 s of CPU time and 300 MB of additional memory."""
    began, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.process_time() - began < 3
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 300_000


def test_tensors_round_trip():
    shared = torch.randn(3, 4)
    tensors = collections.OrderedDict(
        a=shared, b=shared, c=torch.arange(3), d=torch.randn(2, 5).T, e=torch.nn.Parameter(torch.ones(2)),
        f=torch.zeros(2, dtype=torch.float64), g=torch.ones(3).bfloat16(), h=torch.zeros(0, 3), i=torch.tensor(1.0),
    )  # fmt: skip
    found = load_tensors("x", saved(tensors))
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype


HUGE = torch.zeros(1)
BAD = {
    "a view that repeats one number": ({"a": HUGE.expand(200_000, 200_000)}, "needs 160,000,000,000 bytes"),
    "a view of more bytes than int64 counts": ({"a": HUGE.as_strided((2**31, 2**31), (0, 0))}, "needs"),
    "views that overlap": ({"a": torch.zeros(200).as_strided((99, 50), (1, 1))}, "needs 19,800 bytes"),
    "whole numbers for names": ({0: HUGE, "a": HUGE}, "not a dictionary of tensors"),
    "a list": ([HUGE], "not a dictionary of tensors"),
    "a dictionary inside": ({"a": {"b": HUGE}}, "'a' is a dict"),
    "sparse": ({"a": torch.zeros(9, 9).to_sparse()}, "_rebuild_sparse_tensor' in its pickle"),
    "on no device": ({"a": torch.zeros(10**6, 10**6, device="meta")}, "in its pickle"),
    "a call that allocates": ({"a": Calling(bytearray, 10**9)}, "bytearray' in its pickle"),
    "a call that grows a text": ({"a": Calling(_codecs.encode, "x" * 99, "hex")}, "encode' in its pickle"),
    "another protocol": (({"a": HUGE}, {"pickle_protocol": 4}), "instruction"),
    "an old torch": (({"a": HUGE}, {"_use_new_zipfile_serialization": False}), "torch older than 1.6"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_anything_but_a_dictionary_of_plain_tensors_is_refused(kind):
    tensors, message = BAD[kind]
    content, options = tensors if isinstance(tensors, tuple) else (tensors, {})
    with pytest.raises(UserError, match=f"^x.*({message})"):
        load_tensors("x", saved(content, **options))


def test_one_storage_under_many_names_is_refused():
    shared = torch.zeros(100_000)
    assert len(load_tensors("x", saved(dict.fromkeys("abc", shared)))) == 3
    with pytest.raises(UserError, match="share their storages"):
        load_tensors("x", saved({str(number): shared[number:] for number in range(500)}))


def rezipped(change, content=None, method=zipfile.ZIP_STORED):
    """A file of torch.save with its members changed."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content or saved({"a": torch.arange(9.0)}))) as old,
        zipfile.ZipFile(file, "w", method) as new,
    ):
        for name, member in change({name: old.read(name) for name in old.namelist()}).items():
            new.writestr(name, member)
    return file.getvalue()


MEMBERS = {
    "a storage that is missing": lambda m: {n: c for n, c in m.items() if not n.endswith("data/0")},
    "a storage that is shorter": lambda m: {n: c[:8] if n.endswith("data/0") else c for n, c in m.items()},
    "no pickle": lambda m: {n: c for n, c in m.items() if not n.endswith("data.pkl")},
    "two pickles": lambda m: m | {"other/data.pkl": m["archive/data.pkl"]},
    "half a pickle": lambda m: m | {"archive/data.pkl": m["archive/data.pkl"][:-30]},
    "a pickle of megabytes": lambda m: m | {"archive/data.pkl": bytes(2_000_000)},
    "an empty pickle": lambda m: m | {"archive/data.pkl": b""},
    "a pickle of another file": lambda m: m | {"archive/data.pkl": pickle.dumps({"a": 1}, 2)},
}


@pytest.mark.parametrize("kind", MEMBERS)
def test_unexpected_zip_members_are_refused(kind):
    with pytest.raises(UserError, match=r"^x"):
        load_tensors("x", rezipped(MEMBERS[kind]))


def test_a_compressed_storage_is_refused():
    content = saved({"a": torch.zeros(20_000_000)})
    with pytest.raises(UserError, match="its members are not as torch writes them"):
        load_tensors("x", rezipped(lambda m: m, content, zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x05\x06" + bytes(18), b"PK\x03\x04" * 1000, bytes(100)])
def test_other_bytes_are_refused(content):
    with pytest.raises(UserError, match=r"^x"):
        load_tensors("x", content)


def test_truncated_or_flipped_bytes_are_refused_or_harmless():
    content = saved({"a": torch.arange(5.0), "b": torch.ones(2, 2)})
    changed = [content[:end] for end in range(0, len(content), 61)]
    changed += [content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :] for at in range(0, len(content), 7)]
    for one in changed:
        try:
            found = load_tensors("x", one)
        except UserError as error:
            assert str(error).startswith("x")  # noqa: PT017
        else:
            assert all(tensor.numel() <= 100 for tensor in found.values())
