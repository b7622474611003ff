"""Our safetensors against the library's, and against damage."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from tpu_tlm.errors import TlmError
from tpu_tlm.formats.huggingface.safetensors import decode, encode

ARRAYS = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.array([1, -2], np.int64),
    "scalar": np.array(2.5, np.float32),
    "empty": np.zeros((0, 4), np.float32),
    "flag": np.array([True, False]),
}


def test_the_library_reads_ours_and_we_read_the_library():
    library = pytest.importorskip("safetensors.numpy")
    written = encode(ARRAYS, {"format": "pt"})
    theirs = library.load(written)
    ours = decode(written, "file")
    back = decode(library.save(ARRAYS), "file")
    assert b'"format":"pt"' in written[:100]
    for found in (theirs, ours, back):
        assert set(found) == set(ARRAYS)
        for name, array in ARRAYS.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)


def test_half_precisions_become_float32():
    values = np.array([1.0, -0.15625, 3.0e38, 0.0], np.float32)
    bits = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    header = json.dumps({"x": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}}).encode()
    read = decode(struct.pack("<Q", len(header)) + header + bits, "file")
    assert read["x"].dtype == np.float32
    np.testing.assert_allclose(read["x"], values, rtol=2**-8)
    assert read["x"][1] == values[1]  # exact where eight bits are enough
    half = decode(encode({"h": np.array([0.1, 2.0], np.float16)}), "file")
    np.testing.assert_array_equal(half["h"], np.array([0.1, 2.0], np.float16).astype(np.float32))


def _changed(**entry):
    header = {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **entry}}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(8)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "cut off"),
        (struct.pack("<Q", 10**9) + b"{}", "cut off"),
        (struct.pack("<Q", 4) + b"{{{{", "damaged"),
        (struct.pack("<Q", 2) + b"[]", "damaged"),
        (_changed(shape=[3]), "does not fit"),
        (_changed(data_offsets=[0, 16], shape=[4]), "does not fit"),
        (_changed(data_offsets=[4, 8], shape=[1]), "does not fit"),
        (_changed(dtype="F8_E4M3"), "not supported"),
        (_changed() + b"more", "after its last"),
    ],
)
def test_damage_is_named(data, says):
    with pytest.raises(TlmError, match=says) as caught:
        decode(data, "the-file")
    assert "the-file" in str(caught.value)


def test_cut_anywhere_is_noticed():
    written = encode(ARRAYS)
    for length in range(len(written)):
        with pytest.raises(TlmError):
            decode(written[:length], "file")
