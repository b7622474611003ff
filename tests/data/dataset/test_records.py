"""The bytes of records: checksums, framing, and that TensorFlow's own reader takes them."""

from __future__ import annotations

import numpy as np
import pytest

from tpu_tlm.data.dataset import checksums, crc32c, records


@pytest.mark.parametrize(
    ("message", "expected"),
    # The vectors of RFC 3720, appendix B.4, and the usual check value.
    [
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"123456789", 0xE3069283),
        (b"", 0),
    ],
)
def test_crc32c_matches_published_vectors(message: bytes, expected: int) -> None:
    assert crc32c.crc32c(message) == expected


@pytest.mark.parametrize("length", [1, 2, 3, 4, 7, 61])
def test_rows_agree_with_one_by_one(length: int) -> None:
    rows = np.random.default_rng(length).integers(
        0, 256, (9000, length), dtype=np.uint8
    )  # more rows than one block
    found = crc32c.crc32c_rows(rows)
    for i in (0, 1, 8191, 8192, 8999):
        assert found[i] == crc32c.crc32c(rows[i].tobytes())


@pytest.mark.parametrize(
    ("seq_length", "vocab_size"), [(7, 100), (128, 65536), (128, 65537), (70, 300)]
)
def test_tensorflow_reads_what_the_template_wrote(
    tmp_path, seq_length: int, vocab_size: int
) -> None:
    import tensorflow as tf

    rng = np.random.default_rng(0)
    ids = rng.integers(0, vocab_size, (50, seq_length))
    starts = rng.random((50, seq_length)) < 0.7
    layout = records.token_layout(seq_length, vocab_size)
    blocks = layout.frame(records.token_payload(ids, starts, vocab_size))
    assert blocks.shape == (50, layout.record_bytes)
    path = tmp_path / "a.tfrecord"
    path.write_bytes(blocks.tobytes())

    batch = next(
        iter(tf.data.TFRecordDataset(str(path)).batch(50))
    )  # checks both checksums of each record
    spec = {"x": tf.io.FixedLenFeature([], tf.string), "w": tf.io.FixedLenFeature([], tf.string)}
    parsed = tf.io.parse_example(batch, spec)
    kind = tf.uint16 if vocab_size <= 65536 else tf.int32
    np.testing.assert_array_equal(tf.io.decode_raw(parsed["x"], kind), ids)
    bits = np.unpackbits(tf.io.decode_raw(parsed["w"], tf.uint8).numpy(), axis=1, bitorder="little")
    np.testing.assert_array_equal(bits[:, :seq_length].astype(bool), starts)
    assert not bits[:, seq_length:].any()

    example = tf.train.Example.FromString(batch[3].numpy())
    assert sorted(example.features.feature) == ["w", "x"]

    with tf.io.TFRecordWriter(str(tmp_path / "b.tfrecord")) as writer:
        for message in batch.numpy():
            writer.write(message)
    assert (tmp_path / "b.tfrecord").read_bytes() == path.read_bytes()


def test_unframe_finds_every_kind_of_damage() -> None:
    layout = records.token_layout(16, 1000)
    payload = np.random.default_rng(1).integers(0, 256, (40, layout.payload_bytes), dtype=np.uint8)
    good = layout.frame(payload)
    again, sound = layout.unframe(good)
    np.testing.assert_array_equal(again, payload)
    assert sound.all()
    for column in range(layout.record_bytes):
        bad = good.copy()
        bad[7, column] ^= 4
        _, sound = layout.unframe(bad)
        assert not sound[7] and sound.sum() == 39, column


def test_sums_see_any_change_and_are_the_stated_formula() -> None:
    rows = np.random.default_rng(2).integers(0, 256, (7, 21), dtype=np.uint8)
    words = np.frombuffer(b"".join(row.tobytes() + bytes(3) for row in rows), "<u8").reshape(7, 3)
    columns, weights = checksums.column_weights(21), checksums.row_weights(4)
    plain = [
        sum(
            int(words[r, c]) * int(columns[c]) * int(weights[r % 4])
            for r in piece
            for c in range(3)
        )
        for piece in ((0, 1, 2, 3), (4, 5, 6))
    ]
    told = checksums.piece_sums(checksums.record_sums(rows), 4)
    assert told == [f"{value % 2**64:016x}" for value in plain]
    for place in range(rows.size):
        changed = rows.copy()
        changed.reshape(-1)[place] ^= 1 << place % 8
        again = checksums.piece_sums(checksums.record_sums(changed), 4)
        assert again[place // 84] != told[place // 84]
    assert checksums.piece_sums(
        checksums.record_sums(rows[::-1].copy()), 7
    ) != checksums.piece_sums(checksums.record_sums(rows), 7)
