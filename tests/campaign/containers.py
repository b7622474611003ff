"""Damaged and hostile containers of arrays and records: NPZ, safetensors, TFRecord."""

from __future__ import annotations

import io
import struct
import zipfile

from tests.campaign import mutate
from tests.campaign.crc import masked_crc


def npz(raw: bytes, chance: mutate.Chance) -> bytes:
    """An NPZ: names, headers, contents and the container of its arrays changed."""
    if chance.random() < 0.2:
        return mutate.damaged(raw, chance)
    members = {}
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        for name in archive.namelist():
            members[name] = archive.read(name)
    compression = zipfile.ZIP_STORED
    name = chance.choice(sorted(members))
    action = chance.randrange(10)
    extra: list[tuple[str, bytes]] = []
    if action == 0:
        carried = "tpu_tlm/carried/" if chance.random() < 0.5 else ""
        extra = [
            (
                carried + str(chance.choice(mutate.NAMES)).replace("\ud800", "u") + ".npy",
                members[name],
            )
        ]
    elif action == 1:
        members[name] = _npy_header(members[name], chance)
    elif action == 2:
        members[name] = mutate.damaged(members[name], chance)
    elif action == 3:
        del members[name]
    elif action == 4:
        other = chance.choice(sorted(members))
        members[name], members[other] = members[other], members[name]
    elif action == 5:
        extra = [(name, members[name])]
    elif action == 6:
        shape = chance.choice(("(1000000000,)", "(250, 1000, 1000)"))
        members[name] = _npy(
            f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}", bytes(8 << 20)
        )
        compression = zipfile.ZIP_DEFLATED
    elif action == 7:
        members[name] = _npy(
            "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", mutate.PICKLE
        )
    elif action == 8:
        members = {
            k.replace(".npy", chance.choice(("", ".npy.npy", ".txt", "/"))): v
            for k, v in members.items()
        }
    else:
        configs = [key for key in sorted(members) if b'{"' in members[key]]
        if configs:
            key = chance.choice(configs)
            members[key] = _json_in_npy(members[key], chance)
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", compression) as archive:
        for key, data in [*members.items(), *extra]:
            archive.writestr(zipfile.ZipInfo(key or "x"), data, compression)
    return target.getvalue()


def _npy(header: str, data: bytes) -> bytes:
    text_ = header.encode("latin1", "replace") + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", min(len(text_), 65535)) + text_[:65535] + data


def _npy_header(raw: bytes, chance: mutate.Chance) -> bytes:
    size = struct.unpack("<H", raw[8:10])[0]
    data = raw[10 + size :]
    header = chance.choice(
        (
            "{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }",
            "{'descr': '<f4', 'fortran_order': True, 'shape': (), }",
            "{'descr': '<U9', 'fortran_order': False, 'shape': (1,), }",
            "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,), }",
            "{'descr': '<f4', 'shape': (1,), }",
            "__import__('os').system('touch CANARY')",
            "{" * 200,
            "{'descr': '<M8[ns]', 'fortran_order': False, 'shape': (1,), }",
            "{'descr': '|V8', 'fortran_order': 1, 'shape': 'x', }",
            "{'descr': '<c16', 'fortran_order': False, 'shape': (1, 1), }",
        )
    )
    return _npy(header, data)


def _json_in_npy(raw: bytes, chance: mutate.Chance) -> bytes:
    size = struct.unpack("<H", raw[8:10])[0]
    header, data = raw[10 : 10 + size], raw[10 + size :]
    try:
        changed = mutate.json_file(data, chance)
    except ValueError:
        return mutate.damaged(raw, chance)
    return _npy(
        header.decode("latin1").replace(f"({len(data)},)", f"({len(changed)},)").strip(), changed
    )


def safetensors(raw: bytes, chance: mutate.Chance) -> bytes:
    """A safetensors file: its header as a tree, its length, its data."""
    size = struct.unpack("<Q", raw[:8])[0]
    header, data = raw[8 : 8 + size], raw[8 + size :]
    action = chance.randrange(6)
    if action < 3:
        changed = mutate.json_file(header, chance)
        return struct.pack("<Q", len(changed)) + changed + data
    if action == 3:
        length = chance.choice((0, 1, size - 1, size + 1, 2**31, 2**63, 2**64 - 1, len(raw)))
        return struct.pack("<Q", length) + header + data
    if action == 4:
        return raw[: 8 + size] + mutate.damaged(data, chance)
    return mutate.damaged(raw, chance)


def records(raw: bytes, chance: mutate.Chance) -> list[bytes]:
    """The payloads of a TFRecord file with one to three of them changed."""
    found = []
    at = 0
    while at + 12 <= len(raw):
        size = struct.unpack("<Q", raw[at : at + 8])[0]
        found.append(raw[at + 12 : at + 12 + size])
        at += 16 + size
    for _ in range(chance.choice((1, 1, 3))):
        i = chance.randrange(len(found))
        action = chance.randrange(5)
        if action == 0:
            del found[i]
        elif action == 1:
            found.insert(i, found[i])
        elif action == 2:
            found[i] = _example(chance)
        else:
            found[i] = mutate.damaged(found[i], chance)
        found = found or [b""]
    return found


def _example(chance: mutate.Chance) -> bytes:
    """A tf.train.Example with features of other names, types and lengths."""
    import tensorflow as tf

    example = tf.train.Example()
    for name in chance.sample(("x", "y", "w", "z", ""), chance.randrange(4)):
        feature = example.features.feature[name]
        kind = chance.randrange(4)
        if kind == 0:
            feature.int64_list.value.extend(
                chance.choices((0, 1, -1, 2**62, 44, 45, 46), k=chance.choice((0, 1, 16, 17, 5000)))
            )
        elif kind == 1:
            feature.float_list.value.extend([float("nan")] * chance.choice((0, 1, 16)))
        elif kind == 2:
            feature.bytes_list.value.extend(
                [chance.randbytes(chance.choice((0, 1, 32, 33)))] * chance.choice((0, 1, 2))
            )
    return example.SerializeToString()


def tfrecord(payloads: list[bytes]) -> bytes:
    """A TFRecord file of these payloads with right checksums."""
    parts = []
    for payload in payloads:
        length = struct.pack("<Q", len(payload))
        parts += [length, masked_crc(length), payload, masked_crc(payload)]
    return b"".join(parts)


def tfrecord_file(raw: bytes, chance: mutate.Chance) -> bytes:
    """A TFRecord file: payloads changed under right checksums, or its bytes damaged."""
    if chance.random() < 0.3:
        return mutate.damaged(raw, chance)
    return tfrecord(records(raw, chance))
