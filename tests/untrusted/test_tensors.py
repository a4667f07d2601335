"""Headers of safetensors files are read and validated before any tensor is loaded."""

import json
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from blip_rl.errors import UserError
from blip_rl.untrusted.tensors import TensorSpec, read_header

KINDS = {np.float32: "F32", np.float64: "F64", np.int64: "I64", np.uint8: "U8", np.bool_: "BOOL"}


def write(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def one(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"a": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=9),
        st.tuples(st.sampled_from(sorted(KINDS, key=str)), st.lists(st.integers(0, 4), max_size=4)),
        max_size=5,
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_the_header_has_the_types_and_shapes_that_were_saved(tmp_path, described):
    tensors = {name: np.zeros(shape, dtype) for name, (dtype, shape) in described.items()}
    path = tmp_path / "a.safetensors"
    save_file(tensors, path)
    found = read_header(path)
    assert found == {name: TensorSpec(KINDS[dtype], tuple(shape)) for name, (dtype, shape) in described.items()}
    assert sum(spec.size for spec in found.values()) == sum(tensor.nbytes for tensor in tensors.values())


@pytest.mark.parametrize(
    ("header", "data"),
    [
        (one(shape=(2**40,), offsets=(0, 2**42)), b"12345678"),  # 4 TB, of which 8 bytes are there
        (one(shape=(2**62, 2**62), offsets=(0, 8)), b"12345678"),
        (one(offsets=(0, 4)), b"1234"),
        (one(offsets=(4, 12)), b"123456789012"),
        (one(offsets=(8, 0)), b"12345678"),
        (one(shape=(-2,)), b"12345678"),
        (one(shape=(True, 2)), b"12345678"),
        (one(dtype="F99"), b"12345678"),
        (one(dtype=None), b"12345678"),
        (one(shape=(1,) * 9, offsets=(0, 4)), b"1234"),
        ({"a": {"dtype": "F32"}}, b""),
        ({"a": 3}, b""),
        ([1, 2], b""),
        (one(), b"12345678 and more"),
        (b"[" * 50_000, b""),
        (b"\xff\xfe", b""),
        ({"a": {**one()["a"]}, "b": {**one()["a"]}}, b"12345678"),  # both over the same bytes
    ],
)
def test_an_inconsistent_header_is_refused(tmp_path, header, data):
    write(tmp_path / "a.safetensors", header, data)
    with pytest.raises(UserError, match=r"a\.safetensors"):
        read_header(tmp_path / "a.safetensors")


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**63, 2**64 - 1, 5_000_000])
def test_a_header_of_absurd_length_is_not_read(tmp_path, length):
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", length) + b"{}")
    with pytest.raises(UserError, match="not a safetensors file"):
        read_header(tmp_path / "a.safetensors")


def test_too_many_tensors_are_refused(tmp_path):
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    write(tmp_path / "a.safetensors", {str(number): empty for number in range(20_001)})
    with pytest.raises(UserError, match="at most 20000 items"):
        read_header(tmp_path / "a.safetensors")


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
def test_an_accepted_file_is_read_alike_by_the_library(tmp_path, data):
    path = tmp_path / "a.safetensors"
    save_file({"x": np.arange(6, dtype=np.float32).reshape(2, 3), "y": np.zeros(3, np.uint8)}, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        found = read_header(path)
    except UserError:
        return
    try:
        with safe_open(path, framework="np") as file:
            for name, spec in found.items():
                assert tuple(file.get_slice(name).get_shape()) == spec.shape
    except SafetensorError:
        pass  # stricter than the header's own check, which is fine
