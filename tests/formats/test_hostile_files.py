"""Damaged and hostile model files: one line that names the file, and nothing written elsewhere."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import zipfile

import numpy as np
import pytest

from tests.paths import DATA_FILES
from tpu_tlm import filesystem
from tpu_tlm.convert import main as convert
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.formats.huggingface.safetensors import decode, encode
from tpu_tlm.formats.json_files import parse_object
from tpu_tlm.formats.load import load
from tpu_tlm.formats.mead.arrays import read_npz
from tpu_tlm.formats.save import save

BERT = DATA_FILES / "hf_golden" / "bert"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(94))]


def one_line(error):
    text = str(error)
    assert "\n" not in text and len(text) < 700
    return text


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A HuggingFace directory with a tokenizer, and the same as an NPZ file."""
    root = tmp_path_factory.mktemp("good")
    (root / "model").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(BERT / name, root / "model")
    (root / "model" / "vocab.txt").write_text("".join(f"{word}\n" for word in WORDS))
    saved = load(str(root / "model"))
    save(saved, str(root / "hf"), "hf")
    save(saved, str(root / "good.npz"))
    (root / "hf" / "conversion.json").unlink()
    config = json.loads((root / "hf" / "config.json").read_text())
    del config["tpu_tlm"]
    (root / "hf" / "config.json").write_text(json.dumps(config))
    return root


@pytest.fixture
def model(good, tmp_path):
    """A copy of the HuggingFace directory, to be damaged."""
    return shutil.copytree(good / "hf", tmp_path / "model")


def refused(path, tmp_path, *words):
    """Convert it; the error's text. Nothing may be written outside the destination."""
    target = tmp_path / "new" / "x.npz"
    target.parent.mkdir(exist_ok=True)
    with pytest.raises(TlmError) as caught:
        convert([str(path), str(target)])
    text = one_line(caught.value)
    assert not list(target.parent.iterdir())
    for word in words:
        assert word in text, text
    return text


@pytest.mark.parametrize("name", ["a.json", "model-00001-of-00002.safetensors", "_x", "A1"])
def test_plain_names_are_taken(name):
    assert filesystem.plain_name(name, "here") == name


@pytest.mark.parametrize(
    "name",
    [
        *(
            "..",
            ".",
            "",
            ".bashrc",
            "/etc/passwd",
            "../x",
            "a/b",
            "a\\b",
            "a\0b",
            "a\nb",
            "~",
            "-x",
        ),
        *("a" * 201, "ä", "a b", "C:x", "gs://b/x", None, 3, ["a"], {"a": 1}, True),
    ],
)
def test_other_names_are_not_written(name):
    with pytest.raises(UsageError, match="not a plain file name"):
        filesystem.plain_name(name, "here")


def test_only_regular_files_inside_the_directory_are_opened(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "secret"
    inside.mkdir()
    outside.write_text("secret")
    (inside / "link").symlink_to(outside)
    (inside / "good").write_text("")
    (inside / "near").symlink_to(inside / "good")
    (inside / "folder").mkdir()
    os.mkfifo(inside / "pipe")
    for name in ("link", "folder", "pipe", "nothing"):
        with pytest.raises(UsageError, match=name):
            filesystem.check_inside(str(inside), name, "here")
    assert filesystem.check_inside(str(inside), "near", "here").endswith("near")


def test_links_of_the_download_cache_are_followed(tmp_path):
    revision = tmp_path / "models--x" / "snapshots" / "abc"
    blobs = tmp_path / "models--x" / "blobs"
    revision.mkdir(parents=True)
    blobs.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(BERT / name, blobs / f"hash-{name}")
        (revision / name).symlink_to(f"../../blobs/hash-{name}")
    assert load(str(revision)).spec.vocab_size == 99


@pytest.mark.parametrize(
    "value", ["/dev/zero", "../../other/model.safetensors", "pipe", "link", 7, None, "", ["a"]]
)
def test_an_index_names_files_inside_the_directory_only(value, model, tmp_path):
    (model / "model.safetensors").unlink()
    os.mkfifo(model / "pipe")
    (model / "link").symlink_to(BERT / "model.safetensors")
    index = {"weight_map": {"a": value}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(
        model, tmp_path, "model.safetensors.index.json" if value not in ("pipe", "link") else value
    )


@pytest.mark.parametrize("index", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "{"])
def test_a_damaged_index_is_named(index, model, tmp_path):
    (model / "model.safetensors").unlink()
    (model / "model.safetensors.index.json").write_text(index)
    refused(model, tmp_path, "model.safetensors.index.json")


def test_a_linked_tokenizer_file_is_not_carried(model, tmp_path):
    """A file of the user's must not travel into an exported model."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (model / "merges.txt").symlink_to(secret)
    refused(model, tmp_path, "merges.txt", "link")


SIZES = ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"]
SIZES += ["intermediate_size", "max_position_embeddings", "type_vocab_size"]
WRONG = [None, "abc", 1.5, True, 0, 10**9, 10**400, []]
KEYS = [
    *((key, value) for key in SIZES for value in WRONG),
    ("num_hidden_layers", 1_000_000),
    ("num_hidden_layers", 999),
    ("intermediate_size", 1_000_000),
    *(("hidden_act", value) for value in ({}, [], 3, None, "")),
    *(("layer_norm_eps", value) for value in ("abc", [], -1, 10**400, True)),
    *(("initializer_range", value) for value in ("x", {})),
    *(("hidden_dropout_prob", value) for value in ("x", 2, [])),
    *(("pad_token_id", value) for value in (99, -1, "0", 1.0, {}, [])),
    *(("tie_word_embeddings", value) for value in ("no", 0)),
    *(("model_type", value) for value in (3, [], {}, "x" * 10_000, "longformer")),
    ("tokenizer_class", 5),
    ("is_decoder", True),
    ("tpu_tlm", 5),
    ("tpu_tlm", {"config": 5}),
    ("tpu_tlm", {"config": {"d_model": "x"}}),
]


@pytest.mark.parametrize(("key", "value"), KEYS, ids=lambda v: str(v)[:24])
def test_every_setting_of_config_json_is_checked(key, value, model):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(TlmError) as caught:
        load(str(model))
    text = one_line(caught.value)
    assert "config.json" in text or "configuration" in text
    assert str(model) in text


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{", b"\xff\xfe", b'{"a": NaN}', b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}",
     b'{"a": "\\ud800"}', b"3"],
    ids=["empty", "list", "cut", "utf16", "nan", "deep", "digits", "surrogate", "number"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_damaged_json_is_named(name, data, model):
    with pytest.raises(TlmError, match="here"):
        parse_object(data, "here")
    (model / name).write_bytes(data)
    with pytest.raises(TlmError) as caught:
        load(str(model))
    assert name in one_line(caught.value)


def _deep(value):
    return json.loads("[" * 300 + "1" + "]" * 300) if value == "deep" else value


TOKENIZER = [
    *(("model", value) for value in (None, 5, [], "x", {}, {"type": "WordPiece"}, "deep")),
    *(("normalizer", value) for value in (5, "x", {"type": 5}, {"type": "Nothing"})),
    *(("pre_tokenizer", value) for value in (5, [], {"type": "BertPreTokenizer", "x": "deep"})),
    *(("added_tokens", value) for value in (5, {}, [5], [{"id": "x"}], [None])),
    *(("post_processor", value) for value in (5, {"type": "TemplateProcessing"})),
    ("version", 7),
]


@pytest.mark.parametrize(("key", "value"), TOKENIZER, ids=lambda v: str(v)[:24])
def test_a_tokenizer_json_of_wrong_types(key, value, model):
    """Named as damaged, or carried along unread with a note: never a traceback."""
    path = model / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: _deep(value)}))
    try:
        saved = load(str(model))
    except TlmError as error:
        assert "tokenizer.json" in one_line(error)
    else:
        assert saved.own_tokenizer is not None or "unread" in " ".join(saved.notes)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"do_lower_case": "yes"}, ""),
        ({"tokenizer_class": 5}, "unread"),
        ({"tokenizer_class": ["a"]}, "unread"),
        ({"added_tokens_decoder": {"98": {"content": "w93"}}}, "other added tokens"),
        ({"word_tokenizer_type": {"a": 1}}, "unread"),
    ],
)
def test_settings_of_wrong_types(settings, says, model):
    path = model / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    assert says in " ".join(load(str(model)).notes)


def _file(header, data=bytes(16)):
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    return struct.pack("<Q", len(text)) + text + data


def _entry(**changes):
    return _file({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], **changes}})


@pytest.mark.parametrize(
    "data",
    [
        _file(b"[" * 5000 + b"]" * 5000),
        _file({"a": 5}),
        _file({"a": None}),
        _file({"a": {}}),
        _file({"__metadata__": {"a": 5}}),
        _entry(dtype=[]),
        _entry(dtype=None),
        _entry(dtype={"F32": 1}),
        _entry(data_offsets=[0]),
        _entry(data_offsets="x"),
        _entry(data_offsets=[0, 2**70]),
        _entry(data_offsets=[16, 0]),
        _entry(data_offsets=[-4, 12]),
        _entry(data_offsets=[0, 16.0]),
        _entry(shape=[2**64]),
        _entry(shape=[2**32, 2**32]),
        _entry(shape=[2**62, 4]),
        _entry(shape=["a"]),
        _entry(shape=[-1, -4]),
        _entry(shape=[True]),
        _entry(shape=[4] + [1] * 100),
        _entry(shape=None),
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 200_000_000) + b"{}",
    ],
    ids=range(24),
)
def test_safetensors_headers_are_checked_before_anything_is_allocated(data, model, tmp_path):
    with pytest.raises(TlmError, match="file"):
        decode(data, "file")
    (model / "model.safetensors").write_bytes(data)
    refused(model, tmp_path, "model.safetensors")


def test_every_changed_byte_of_a_header_is_harmless():
    """A changed name, type, shape or offset is refused or gives other arrays, but never crashes."""
    data = encode({"ab": np.arange(3, dtype=np.float32), "c": np.zeros((2, 2), np.float16)})
    header = struct.unpack("<Q", data[:8])[0]
    for at in range(8 + header):
        for value in (0, 34, 57, 91, 255):
            changed = data[:at] + bytes([value]) + data[at + 1 :]
            try:
                decode(changed, "file")
            except TlmError as error:
                one_line(error)


def npz_with(arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


NAMES = ["../up/evil.sh", "/tmp/evil", ".bashrc", "a/../../b", "evil.sh", "config.json", ""]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", ["carried", "tokenizer_files"])
def test_names_inside_an_npz_write_nothing(place, name, good, tmp_path):
    (tmp_path / "new").mkdir()
    arrays = read_npz((good / "good.npz").read_bytes(), "good")
    arrays[f"tpu_tlm/{place}/{name}"] = np.frombuffer(b"evil", np.uint8)
    bad = tmp_path / "bad.npz"
    with zipfile.ZipFile(bad, "w") as archive:
        for key, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array)
            archive.writestr(f"{key}.npy", buffer.getvalue())
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    outcomes = []
    for target in ("hf", "bert"):
        try:
            outcomes.append(convert([str(bad), str(tmp_path / "new" / target), "--to", target]))
        except UsageError as error:
            one_line(error)
    written = [p for p in tmp_path.rglob("*") if str(p) not in before]
    assert all(p.is_relative_to(tmp_path / "new") for p in written)
    assert not any(p.is_file() and p.read_bytes() == b"evil" for p in written)
    if place == "carried":
        assert not outcomes and not written


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("config", b"\xff"),
        ("config", b"{}"),
        ("config", b"[" * 100_000),
        ("config", {"vocab_size": "x"}),
        ("config", {"vocab_size": 10**9}),
        ("config", {"pad_id": -1}),
        ("config", {"kind": ["mlm"]}),
        ("config", {"seq_length": 10**12}),
        ("config", {"d_model": 10**9}),
        ("config", {"d_ff": 10**9}),
        ("config", {"num_layers": 10**6}),
        ("config", {"num_heads": 10**9}),
        ("config", {"d_k": 10**9}),
        ("config", {"max_positions": 10**9}),
        ("config", {"type_vocab_size": 10**9}),
        ("classifier", b"[]"),
        ("family", b"\xff"),
    ],
    ids=lambda v: str(v)[:24],
)
def test_the_configuration_inside_an_npz_is_checked(key, value, good, tmp_path):
    arrays = read_npz((good / "good.npz").read_bytes(), "good")
    if isinstance(value, dict):
        spec = json.loads(arrays["tpu_tlm/config"].tobytes())
        for name, new in value.items():
            (spec if name in spec else spec["config"])[name] = new
        value = json.dumps(spec).encode()
    arrays[f"tpu_tlm/{key}"] = np.frombuffer(value, np.uint8)
    (tmp_path / "bad.npz").write_bytes(npz_with(arrays))
    with pytest.raises(TlmError, match="bad.npz") as caught:
        load(str(tmp_path / "bad.npz"))
    one_line(caught.value)


def test_archives_are_checked_before_they_are_unpacked(tmp_path):
    def archive(*members, compression=zipfile.ZIP_STORED):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", compression) as out:
            for name, data in members:
                out.writestr(name, data)
        return buffer.getvalue()

    def npy(array, **changes):
        buffer = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            buffer, {**np.lib.format.header_data_from_array_1_0(array), **changes}
        )
        return buffer.getvalue() + array.tobytes()

    pickled = io.BytesIO()
    np.save(pickled, np.array([{"a": 1}], object), allow_pickle=True)
    small = np.zeros(2, np.float32)
    bomb = archive(("a.npy", npy(np.zeros(10**6, np.uint8))), compression=zipfile.ZIP_DEFLATED)
    # The length of the only member in the central directory: 4 GB instead of 1 MB.
    at = bomb.rindex(b"PK\x01\x02")
    bomb = bomb[: at + 24] + struct.pack("<I", 2**32 - 2) + bomb[at + 28 :]
    for data in (
        archive(("a.npy", pickled.getvalue())),
        archive(("a.npy", npy(small, shape=(10**12,)))),
        archive(("a.npy", npy(small, shape=(-1,)))),
        archive(("a.npy", b"not an array")),
        bomb,
    ):
        with pytest.raises(TlmError, match="the-file.*NPZ"):
            read_npz(data, "the-file")
    with pytest.warns(UserWarning, match="Duplicate"):
        double = archive(("a.npy", npy(small)), ("a.npy", npy(small)))
    with pytest.raises(TlmError, match="two members"):
        read_npz(double, "the-file")


def test_a_cut_bert_checkpoint_is_named(model, tmp_path):
    save(load(str(model)), str(tmp_path / "bert"), "bert")
    (data,) = (tmp_path / "bert").glob("*.data-*")
    whole = data.read_bytes()
    for length in (0, 100, len(whole) // 2, len(whole) - 1):
        data.write_bytes(whole[:length])
        refused(tmp_path / "bert", tmp_path, "bert_model.ckpt", "cut off")
    data.unlink()
    refused(tmp_path / "bert", tmp_path, "bert_model.ckpt")


def test_pickled_weights_are_refused_with_the_way_to_convert(model, tmp_path):
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(b"")
    refused(model, tmp_path, "save_pretrained", "safetensors")


@pytest.mark.parametrize(
    ("dtype", "word"), [("int32", "whole numbers"), ("uint8", "whole numbers"), ("float32", "NaN")]
)
@pytest.mark.parametrize("name", ["embeddings.weight", "query.weight", "LayerNorm.bias"])
def test_arrays_that_are_no_weights_are_named(dtype, word, name, model, tmp_path):
    arrays = decode((model / "model.safetensors").read_bytes(), "model")
    found = next(key for key in arrays if key.endswith(name))
    wrong = np.full(arrays[found].shape, 1 if word != "NaN" else np.nan, dtype)
    (model / "model.safetensors").write_bytes(encode(arrays | {found: wrong}))
    refused(model, tmp_path, word)
    # What the model does not use may be anything.
    (model / "model.safetensors").write_bytes(encode(arrays | {"other": wrong}))
    assert load(str(model)).spec.kind == "mlm"
