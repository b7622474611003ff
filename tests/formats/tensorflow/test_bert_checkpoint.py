"""BERT's TensorFlow files under Google's names, which are written out here by themselves."""

from __future__ import annotations

import json
import posixpath

import numpy as np
import pytest
import tensorflow as tf

from tests.paths import DATA_FILES
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.formats.huggingface.read import read_hf
from tpu_tlm.formats.huggingface.safetensors import decode
from tpu_tlm.formats.tensorflow.bert_checkpoint import read_bert, write_bert
from tpu_tlm.formats.tensorflow.saved_model_read import read_saved_model

GOLDEN = DATA_FILES / "hf_golden"
CONFIG = {
    **{
        "vocab_size": 99,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    },
    **{
        "hidden_act": "gelu",
        "max_position_embeddings": 20,
        "type_vocab_size": 2,
        "initializer_range": 0.02,
    },
    **{"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1},
}
LAYER = {
    **{
        f"attention/self/{n}/{part}": f"attention.self.{n}.{{}}"
        for n in ("query", "key", "value")
        for part in ("kernel", "bias")
    },
    "attention/output/dense/kernel": "attention.output.dense.{}",
    "attention/output/dense/bias": "attention.output.dense.{}",
    "attention/output/LayerNorm/gamma": "attention.output.LayerNorm.{}",
    "attention/output/LayerNorm/beta": "attention.output.LayerNorm.{}",
    "intermediate/dense/kernel": "intermediate.dense.{}",
    "intermediate/dense/bias": "intermediate.dense.{}",
    "output/dense/kernel": "output.dense.{}",
    "output/dense/bias": "output.dense.{}",
    "output/LayerNorm/gamma": "output.LayerNorm.{}",
    "output/LayerNorm/beta": "output.LayerNorm.{}",
}
REST = {
    "bert/embeddings/word_embeddings": "bert.embeddings.word_embeddings.weight",
    "bert/embeddings/position_embeddings": "bert.embeddings.position_embeddings.weight",
    "bert/embeddings/token_type_embeddings": "bert.embeddings.token_type_embeddings.weight",
    "bert/embeddings/LayerNorm/gamma": "bert.embeddings.LayerNorm.weight",
    "bert/embeddings/LayerNorm/beta": "bert.embeddings.LayerNorm.bias",
    "bert/pooler/dense/kernel": "bert.pooler.dense.weight",
    "bert/pooler/dense/bias": "bert.pooler.dense.bias",
    "cls/predictions/transform/dense/kernel": "cls.predictions.transform.dense.weight",
    "cls/predictions/transform/dense/bias": "cls.predictions.transform.dense.bias",
    "cls/predictions/transform/LayerNorm/gamma": "cls.predictions.transform.LayerNorm.weight",
    "cls/predictions/transform/LayerNorm/beta": "cls.predictions.transform.LayerNorm.bias",
    "cls/predictions/output_bias": "cls.predictions.bias",
    "cls/seq_relationship/output_weights": "cls.seq_relationship.weight",
    "cls/seq_relationship/output_bias": "cls.seq_relationship.bias",
}


def google_arrays():
    """The golden BertForPreTraining (tanh gelu, as in Google's program) under Google's names."""
    theirs = decode((GOLDEN / "bert_pretraining" / "model.safetensors").read_bytes(), "golden")
    names = dict(REST)
    for layer in range(2):
        for google, hf in LAYER.items():
            last = "weight" if google.endswith(("kernel", "gamma")) else "bias"
            names[f"bert/encoder/layer_{layer}/{google}"] = (
                f"bert.encoder.layer.{layer}.{hf.format(last)}"
            )
    assert set(names.values()) == set(theirs)
    return {
        google: theirs[hf].T if google.endswith("kernel") else theirs[hf]
        for google, hf in names.items()
    }


def save(directory, arrays, name="bert_model.ckpt"):
    tf.raw_ops.SaveV2(
        prefix=posixpath.join(str(directory), name),
        tensor_names=list(arrays),
        shape_and_slices=[""] * len(arrays),
        tensors=[tf.constant(a) for a in arrays.values()],
    )


@pytest.fixture
def checkpoint(tmp_path):
    arrays = google_arrays()
    slots = {
        f"{n}/{slot}": np.zeros_like(a) for n, a in arrays.items() for slot in ("adam_m", "adam_v")
    }
    save(tmp_path, {**arrays, **slots, "global_step": np.int64(7)})
    (tmp_path / "bert_config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def assert_original(saved):
    original = read_hf(str(GOLDEN / "bert_pretraining"))
    assert set(saved.values) == set(original.values) and set(saved.extras) == set(original.extras)
    for path, value in {**original.values, **original.extras}.items():
        np.testing.assert_array_equal({**saved.values, **saved.extras}[path], value, err_msg=path)
    assert saved.spec.config == original.spec.config


def test_equal_to_the_original_weights(checkpoint):
    saved = read_bert(str(checkpoint))
    assert_original(saved)
    assert len(saved.unused) == 2 * len(google_arrays()) + 1 and any(
        "optimizer dropped" in n for n in saved.notes
    )
    assert {"bert_model.ckpt.index", "bert_config.json"} <= set(saved.hashes)
    assert_original(read_bert(str(checkpoint / "bert_model.ckpt")))


def test_same_numbers_as_transformers(checkpoint):
    io = np.load(GOLDEN / "bert_pretraining" / "io.npz")
    real = io["attention_mask"] == 1
    logits = read_bert(str(checkpoint)).model()(
        {
            "x": tf.constant(io["input_ids"], tf.int32),
            "tt": tf.constant(io["token_type_ids"], tf.int32),
        }
    )
    np.testing.assert_allclose(
        logits.numpy()[real][:, :99], io["prediction_logits"][real], atol=1e-5
    )


def test_written_under_googles_names(checkpoint, tmp_path):
    saved = read_bert(str(checkpoint))
    target = tmp_path / "written"
    target.mkdir()
    files, _ = write_bert(saved, str(target))
    for name, data in files.items():
        (target / name).write_bytes(data)
    expected = google_arrays()
    reader = tf.train.load_checkpoint(str(target / "bert_model.ckpt"))
    assert set(reader.get_variable_to_shape_map()) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(reader.get_tensor(name), array, err_msg=name)
    config = json.loads(files["bert_config.json"])
    assert {key: config[key] for key in CONFIG} == CONFIG
    assert_original(read_bert(str(target)))


def test_the_exact_gelu_survives_the_way_through(tmp_path):
    saved = read_hf(str(GOLDEN / "bert"))
    files, notes = write_bert(saved, str(tmp_path))
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    assert json.loads(files["bert_config.json"])["hidden_act"] == "gelu" and any(
        "tanh" in note for note in notes
    )
    assert read_bert(str(tmp_path)).spec == saved.spec


def test_the_newest_checkpoint_of_several(checkpoint):
    arrays = google_arrays()
    for step in (900, 1000):
        save(
            checkpoint,
            {**arrays, "bert/pooler/dense/bias": np.full(32, step, np.float32)},
            f"model.ckpt-{step}",
        )
    for file in checkpoint.glob("bert_model.ckpt*"):
        file.unlink()
    assert read_bert(str(checkpoint)).extras["pooler/bias"][0] == 1000


def test_errors_name_the_file(checkpoint, tmp_path):
    with pytest.raises(UsageError, match="no TensorFlow checkpoint"):
        read_bert(str(GOLDEN))
    (checkpoint / "bert_config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": 1}))
    with pytest.raises(TlmError, match="bert/encoder/layer_1/.*no place"):
        read_bert(str(checkpoint))
    (checkpoint / "bert_model.ckpt.index").write_bytes(b"damaged")
    with pytest.raises(TlmError, match="not a readable TensorFlow checkpoint"):
        read_bert(str(checkpoint))


def hub1(name):
    return f"module/{name}"


def hub2(name):
    """TensorFlow Hub's BERT for TensorFlow 2, versions 1 and 2."""
    for old, new in (
        ("bert/embeddings/word_embeddings", "bert_model/word_embeddings/embeddings"),
        (
            "bert/embeddings/token_type_embeddings",
            "bert_model/embedding_postprocessor/type_embeddings",
        ),
        (
            "bert/embeddings/position_embeddings",
            "bert_model/embedding_postprocessor/position_embeddings",
        ),
        ("bert/embeddings/LayerNorm", "bert_model/embedding_postprocessor/layer_norm"),
        ("bert/encoder", "bert_model/encoder"),
        ("attention/self", "self_attention"),
        ("attention/output/dense", "self_attention_output"),
        ("attention/output/LayerNorm", "self_attention_layer_norm"),
        ("intermediate/dense", "intermediate"),
        ("/output/dense", "/output"),
        ("/output/LayerNorm", "/output_layer_norm"),
        ("bert/pooler/dense", "bert_model/pooler_transform"),
    ):
        name = name.replace(old, new)
    return name


def hub3(name):
    """TensorFlow Hub's BERT for TensorFlow 2, versions 3 and 4."""
    for old, new in (
        ("bert/embeddings/word_embeddings", "word_embeddings/embeddings"),
        ("bert/embeddings/token_type_embeddings", "type_embeddings/embeddings"),
        ("bert/embeddings/position_embeddings", "position_embedding/embeddings"),
        ("bert/embeddings/LayerNorm", "embeddings/layer_norm"),
        ("bert/encoder", "transformer"),
        ("attention/self", "self_attention"),
        ("attention/output/dense", "self_attention/attention_output"),
        ("attention/output/LayerNorm", "self_attention_layer_norm"),
        ("intermediate/dense", "intermediate"),
        ("/output/dense", "/output"),
        ("/output/LayerNorm", "/output_layer_norm"),
        ("bert/pooler/dense", "pooler_transform"),
        ("cls/predictions/output_bias", "bert/cls/predictions/output_bias/bias"),
        ("cls/predictions/transform", "bert/cls/predictions/transform"),
    ):
        name = name.replace(old, new)
    return name


def keras(name):
    """The Keras model of `transformers`."""
    for old, new in (
        ("bert/embeddings/word_embeddings", "bert/embeddings/word_embeddings/weight"),
        (
            "bert/embeddings/token_type_embeddings",
            "bert/embeddings/token_type_embeddings/embeddings",
        ),
        ("bert/embeddings/position_embeddings", "bert/embeddings/position_embeddings/embeddings"),
        ("layer_0", "layer_._0"),
        ("layer_1", "layer_._1"),
        ("cls/predictions/output_bias", "cls/predictions/bias"),
        ("cls/predictions", "mlm___cls/predictions"),
        ("cls/seq_relationship", "nsp___cls/seq_relationship"),
    ):
        name = name.replace(old, new)
    return f"tf_bert_for_pre_training/{name}"


def by_head(name, array):
    """Kernels of newer modules have an axis for the heads."""
    if "self_attention/attention_output/kernel" in name:
        return array.reshape(4, 8, 32)
    if "self_attention/" in name and name.endswith("kernel"):
        return array.reshape(32, 4, 8)
    return array.reshape(4, 8) if "self_attention/" in name and "output" not in name else array


@pytest.mark.parametrize("scheme", [hub1, hub2, hub3, keras])
def test_bert_out_of_a_saved_model(scheme, tmp_path):
    expected = {n: a for n, a in google_arrays().items() if "seq_relationship" not in n}
    if scheme is keras:
        expected["cls/seq_relationship/kernel"] = google_arrays()[
            "cls/seq_relationship/output_weights"
        ].T
        expected["cls/seq_relationship/bias"] = google_arrays()["cls/seq_relationship/output_bias"]
    module = tf.Module()
    named = {scheme(name): array for name, array in expected.items()}
    module.held = [
        tf.Variable(by_head(n, a) if scheme in (hub2, hub3) else a, name=n)
        for n, a in named.items()
    ]
    tf.saved_model.save(module, str(tmp_path / "model"))
    (tmp_path / "model" / "assets" / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, range(94))])
    )
    if scheme not in (hub2, hub3):
        # Without the axis of the heads only a configuration says how many there are.
        (tmp_path / "model" / "assets" / "bert_config.json").write_text(json.dumps(CONFIG))
    saved = read_saved_model(str(tmp_path / "model"))
    original = read_hf(str(GOLDEN / "bert_pretraining"))
    assert saved.unused == () and set(saved.extras) >= {"pooler/kernel", "pooler/bias"}
    assert ("next_sentence/kernel" in saved.extras) == (scheme is keras)
    for path, value in {**saved.values, **saved.extras}.items():
        np.testing.assert_array_equal(
            value, {**original.values, **original.extras}[path], err_msg=path
        )
    assert set(saved.values) == set(original.values)
    assert saved.spec.config.num_heads == 4 and saved.spec.config.activation == "gelu"
    assert saved.tokenizer().id_of("7") == 12 and saved.spec.prefix_id == 2


def test_another_saved_model_is_refused(tmp_path):
    module = tf.Module()
    module.weight = tf.Variable([1.0], name="resnet/kernel")
    tf.saved_model.save(module, str(tmp_path / "model"))
    with pytest.raises(UsageError, match="resnet/kernel.*not named as BERT's"):
        read_saved_model(str(tmp_path / "model"))
