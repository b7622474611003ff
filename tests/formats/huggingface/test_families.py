"""Every HuggingFace family against `transformers`: random small models, both ways, with heads."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import zlib

import numpy as np
import pytest
import tensorflow as tf

from tests import hf
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.formats.classifier import SEQUENCE, TOKEN
from tpu_tlm.formats.huggingface.families import FAMILIES, family_named, names
from tpu_tlm.formats.huggingface.read import read_hf
from tpu_tlm.formats.huggingface.weights import canonical
from tpu_tlm.formats.json_files import ConfigReader
from tpu_tlm.formats.load import load
from tpu_tlm.formats.mapping import export_arrays
from tpu_tlm.formats.pretrained import PretrainedModel
from tpu_tlm.formats.save import save
from tpu_tlm.models.layers.variables import named_variables
from tpu_tlm.models.registry import build_model
from tpu_tlm.models.spec import ModelSpec

pytestmark = hf.needs_torch
SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 24,
}
ROBERTA = {**SIZES, "type_vocab_size": 1, "pad_token_id": 1, "layer_norm_eps": 1e-5}
GPT2 = {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 24}
DISTIL = {
    "vocab_size": 99,
    "dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "hidden_dim": 64,
    "max_position_embeddings": 24,
}
MPNET = {
    **SIZES,
    **{"pad_token_id": 1, "layer_norm_eps": 1e-5},
    **{"id2label": {0: "bad", 1: "good", 2: "ugly"}},
    **{"label2id": {"bad": 0, "good": 1, "ugly": 2}},
}
T5 = {
    **{"vocab_size": 99, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 3},
    **{"num_decoder_layers": 3, "decoder_start_token_id": 0},
}
BART = {
    **{"vocab_size": 99, "d_model": 32, "max_position_embeddings": 24, "dropout": 0.1},
    **{"encoder_layers": 2, "decoder_layers": 3, "forced_eos_token_id": None},
    **{"encoder_attention_heads": 4, "decoder_attention_heads": 4},
    **{"encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
}
ALBERT = {**SIZES, "embedding_size": 16}
MODERN = {
    **SIZES,
    "num_hidden_layers": 5,
    "local_attention": 8,
    **{"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3},
    **{"cls_token_id": 2, "sep_token_id": 3},
}
LABELS = {
    "id2label": {0: "bad", 1: "good", 2: "ugly"},
    "label2id": {"bad": 0, "good": 1, "ugly": 2},
}
UNTIED = {"tie_word_embeddings": False}
GATED = {"feed_forward_proj": "gated-gelu"}
# Start of the class names, end of the class name, configuration.
CASES = [
    *(("Bert", end, SIZES) for end in ("ForMaskedLM", "Model")),
    ("Bert", "ForMaskedLM", {**SIZES, **UNTIED, "hidden_act": "gelu_new"}),
    *(("Roberta", end, ROBERTA) for end in ("ForMaskedLM", "Model")),
    ("Roberta", "ForMaskedLM", {**ROBERTA, **UNTIED}),
    ("XLMRoberta", "ForMaskedLM", ROBERTA),
    ("Camembert", "ForMaskedLM", ROBERTA),
    ("Electra", "ForMaskedLM", {**SIZES, "embedding_size": 16}),
    ("Electra", "ForPreTraining", {**SIZES, "embedding_size": 16}),
    *(("DistilBert", end, DISTIL) for end in ("ForMaskedLM", "Model")),
    ("DistilBert", "ForMaskedLM", {**DISTIL, **UNTIED, "sinusoidal_pos_embds": True}),
    ("MPNet", "ForMaskedLM", {**MPNET, "pad_token_id": 0}),
    *(("MPNet", end, MPNET) for end in ("ForMaskedLM", "Model", *hf.CLASSIFIERS)),
    *(("Albert", end, ALBERT) for end in ("ForMaskedLM", "Model")),
    *(("ModernBert", end, MODERN) for end in ("ForMaskedLM", "Model")),
    ("ModernBert", "ForMaskedLM", {**MODERN, **UNTIED, "norm_bias": True}),
    ("ModernBert", "ForMaskedLM", {**MODERN, "layer_types": ["full_attention"] * 5}),
    ("T5", "ForConditionalGeneration", T5),
    ("T5", "ForConditionalGeneration", {**T5, **UNTIED, **GATED}),
    *(("T5", end, {**T5, **LABELS}) for end in ("EncoderModel", *hf.CLASSIFIERS)),
    *(("T5", end, {**T5, **LABELS, **UNTIED, **GATED}) for end in hf.CLASSIFIERS),
    ("Bart", "ForConditionalGeneration", BART),
    ("Bart", "ForSequenceClassification", {**BART, **LABELS}),
    ("GPT2", "LMHeadModel", GPT2),
    ("GPT2", "LMHeadModel", {**GPT2, **UNTIED, "n_inner": 48, "activation_function": "relu"}),
    *(("Bert", end, {**SIZES, **LABELS}) for end in hf.CLASSIFIERS),
    *(("Roberta", end, {**ROBERTA, **LABELS}) for end in hf.CLASSIFIERS),
    *(("XLMRoberta", end, {**ROBERTA, **LABELS}) for end in hf.CLASSIFIERS),
    *(("Electra", end, {**SIZES, **LABELS, "embedding_size": 16}) for end in hf.CLASSIFIERS),
    *(("DistilBert", end, {**DISTIL, **LABELS}) for end in hf.CLASSIFIERS),
    *(("Albert", end, {**ALBERT, **LABELS}) for end in hf.CLASSIFIERS),
    *(("ModernBert", end, {**MODERN, **LABELS}) for end in hf.CLASSIFIERS),
    ("ModernBert", "ForSequenceClassification", {**MODERN, **LABELS, "classifier_pooling": "mean"}),
    # Biases, and an activation, of the classification head alone.
    ("ModernBert", "ForSequenceClassification", {**MODERN, **LABELS, "classifier_bias": True}),
    (
        "ModernBert",
        "ForTokenClassification",
        {**MODERN, **LABELS, "norm_bias": True, "classifier_activation": "gelu_new"},
    ),
    *(("GPT2", end, {**GPT2, **LABELS, "pad_token_id": 0}) for end in hf.CLASSIFIERS),
]


def name_of(case):
    start, end, config = case
    return f"{start}{end}{'-untied' if config.get('tie_word_embeddings') is False else ''}"


def random_model(start, end, config):
    """A model of `transformers` whose biases are not zero and whose norms are not one."""
    import torch
    import transformers

    torch.manual_seed(zlib.crc32(start.encode()))
    model = getattr(transformers, start + end)(getattr(transformers, f"{start}Config")(**config))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias += torch.randn_like(model.final_logits_bias)
    return model.eval()


def batch(model):
    """Random ids `[B, T]` with padding where the family has it, the mask, and token types."""
    rng = np.random.default_rng(3)
    causal = model.config.model_type == "gpt2"
    lengths = np.array([14, 14, 14] if causal and "pad" not in str(model.config) else [14, 9, 4])
    mask = (np.arange(14) < lengths[:, None]).astype(np.int64)
    pad = model.config.pad_token_id or 0
    x = np.where(mask == 1, rng.integers(5, 99, (3, 14)), pad)
    if model.config.is_encoder_decoder:
        x[np.arange(3), lengths - 1] = model.config.eos_token_id
    types = getattr(model.config, "type_vocab_size", 0) or 0
    tt = (np.arange(14) >= 7).astype(np.int64) * np.ones_like(x) if types > 1 else None
    return x, mask, tt


def our_outputs(saved, x, mask, tt):
    features = {"x": tf.constant(x.astype(np.int32))}
    if tt is not None:
        features["tt"] = tf.constant(tt.astype(np.int32))
    model = saved.model()
    if saved.spec.kind == "seq2seq" and saved.classifier is not None:
        hidden = model.decode_source(features["x"]).numpy()
        return {"logits": saved.classifier.logits(saved.extras, hidden, mask)}
    if saved.spec.kind == "seq2seq":
        features["y"] = tf.constant(hf.targets(x).astype(np.int32))
        return {"logits": model(features).numpy()[..., : saved.spec.vocab_size]}
    found = {"hidden": model.encode(features).numpy()}
    if saved.classifier is not None:
        found["logits"] = saved.classifier.logits(saved.extras, found["hidden"], mask)
    elif saved.spec.kind != "embed":
        logits = model(features).numpy()
        found["logits"] = logits[..., : saved.spec.vocab_size] if logits.ndim == 3 else logits
    return found


def assert_close(found, expected, mask, atol):
    for key, value in found.items():
        assert value.shape == expected[key].shape
        by_token = value.ndim > 1 and value.shape[:2] == mask.shape
        real = mask == 1 if by_token else slice(None)
        np.testing.assert_allclose(value[real], expected[key][real], atol=atol, err_msg=key)


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_both_ways(case, tmp_path):
    """`transformers` writes and we compute; we write and `transformers` computes the same."""
    start, end, config = case
    theirs = random_model(*case)
    x, mask, tt = batch(theirs)
    expected = hf.outputs(theirs, x, mask, tt)
    theirs.save_pretrained(tmp_path / "theirs")
    saved = load(str(tmp_path / "theirs"))
    assert not saved.unused
    assert_close(our_outputs(saved, x, mask, tt), expected, mask, 1e-4)
    if end in hf.CLASSIFIERS:
        assert saved.classifier is not None and saved.classifier.labels == ("bad", "good", "ugly")
    # Through our own format, which must keep family, heads and labels.
    save(saved, str(tmp_path / "model.npz"))
    save(load(str(tmp_path / "model.npz")), str(tmp_path / "ours"), "hf")
    written = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert written["architectures"] == [start + end]
    back = hf.load(start + end, tmp_path / "ours")
    if end in hf.CLASSIFIERS:
        assert back.config.id2label == {0: "bad", 1: "good", 2: "ugly"}
    again = hf.outputs(back, x, mask, tt)
    assert set(again) == set(expected)
    for key, value in expected.items():
        np.testing.assert_allclose(again[key], value, atol=1e-5, err_msg=key)
    # Without our own configuration the directory means the same.
    del written["tpu_tlm"]
    (tmp_path / "ours" / "config.json").write_text(json.dumps(written))
    alone = read_hf(str(tmp_path / "ours"))
    assert alone.classifier == saved.classifier and alone.spec.config == saved.spec.config


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_setting_that_is_not_named_is_the_class_s_default(family):
    import transformers

    config = getattr(transformers, f"{family.class_name}Config")
    sizes = {"gpt2": GPT2, "distilbert": DISTIL, "t5": T5, "bart": BART}.get(family.name, SIZES)
    own = {"bart": {"decoder_attention_heads": 16, "encoder_attention_heads": 16}}
    given = {**sizes, **own.get(family.name, {}), "vocab_size": 60_000, "num_decoder_layers": None}
    full = config(**given).to_dict()
    # Not of the class, but of the sizes above.
    named = {key for key in given if full.get(key) != config().to_dict().get(key)}

    def read(values):
        reader = ConfigReader(values, "config.json")
        heads = [family.classifier(task, reader) for task in (SEQUENCE, TOKEN)]
        return [family.read_config(reader, kind) for kind in family.suffixes], heads

    expected = read(full)
    for key in full:
        if key not in named:
            with contextlib.suppress(UsageError):  # a size that must be named
                assert read({k: v for k, v in full.items() if k != key}) == expected, key


@pytest.mark.parametrize("start", ["Bart", "MPNet"])
def test_what_the_classes_do_not_read_from_the_file(start, tmp_path):
    """BART's decoder has 16 heads where nothing is said, not as many as its encoder."""
    config, end = {"Bart": (BART, "ForConditionalGeneration"), "MPNet": (MPNET, "Model")}[start]
    random_model(start, end, config).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    given = json.loads(path.read_text())
    given.pop("decoder_attention_heads" if start == "Bart" else "pad_token_id")
    path.write_text(json.dumps(given))
    if start == "Bart":
        with pytest.raises(UsageError, match="decoder_attention_heads.*only 4"):
            load(str(tmp_path))
    else:
        assert load(str(tmp_path)).spec.seq_length == 22


@pytest.mark.parametrize("name", ["head.norm.bias", "head.dense.bias", "classifier.dense.weight"])
def test_an_array_that_a_head_does_not_read_is_refused(name, tmp_path):
    """Its logits would be others, silently."""
    from safetensors.numpy import load_file, save_file

    model = random_model("ModernBert", "ForSequenceClassification", {**MODERN, **LABELS})
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    save_file({**load_file(path), name: np.ones(32, np.float32)}, path, {"format": "pt"})
    with pytest.raises(TlmError, match=f"'{name}' has no place in the classification head"):
        load(str(tmp_path))


# A model with a token head of each family.
WITH_LOGITS = {
    start: (start, end, config)
    for start, end, config in reversed(CASES)
    if end in ("ForMaskedLM", "LMHeadModel", "ForConditionalGeneration")
    and config.get("tie_word_embeddings", True)
}


@pytest.mark.parametrize("start", WITH_LOGITS)
def test_gradients_are_those_of_transformers(start, tmp_path):
    """Of every array: dense layers, norms, tables of tokens, positions and types, and heads."""
    import torch

    theirs = random_model(*WITH_LOGITS[start])
    x, mask, tt = batch(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    reads = theirs.config.is_encoder_decoder
    weights = np.random.default_rng(0).standard_normal((*(x[:, :9] if reads else x).shape, 99))
    weights = (weights if reads else weights * mask[..., None]).astype(np.float32) / 50
    given = {"input_ids": x, "attention_mask": mask}
    given |= {"decoder_input_ids": hf.targets(x)} if reads else {}
    given |= {} if tt is None else {"token_type_ids": tt}
    logits = theirs(**{k: torch.from_numpy(v) for k, v in given.items()}).logits
    (logits * torch.from_numpy(weights)).sum().backward()

    saved = load(str(tmp_path / "theirs"))
    still = dataclasses.replace(saved.spec.config, dropout=0.0)
    ours = saved.replaced(spec=dataclasses.replace(saved.spec, config=still)).model()
    variables = named_variables(ours)
    features = {"x": x, **({} if tt is None else {"tt": tt})}
    features |= {"y": hf.targets(x)} if reads else {}
    with tf.GradientTape() as tape:
        found = ours({k: tf.constant(v.astype(np.int32)) for k, v in features.items()})
        total = tf.reduce_sum(found[..., :99] * weights)
    gradients = tape.gradient(total, [v.value for v in variables.values()])
    gradients = {
        path: np.zeros(variable.shape, np.float32) if g is None else tf.convert_to_tensor(g).numpy()
        for (path, variable), g in zip(variables.items(), gradients, strict=True)
    }
    # The mapping of weights to arrays is linear, and holds for gradients.
    family = family_named(theirs.config.model_type)
    arrays = family.to_file(export_arrays(family.pairs(saved.spec), gradients), saved.spec, {})
    names, _ = canonical(
        {n: p for n, p in theirs.named_parameters()}, family.prefix, "transformers"
    )
    compared = 0
    for name, parameter in names.items():
        if name not in arrays:
            assert not name.startswith(family.body), name
            continue
        expected = np.zeros(parameter.shape) if parameter.grad is None else parameter.grad.numpy()
        scale = max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(arrays[name], expected, atol=1e-4 * scale, err_msg=name)
        compared += bool(np.abs(expected).max() > 1e-3)
    assert compared > 0.7 * len(arrays)


# Variables that layers, or both sides, share or do not share: ours, theirs.
SHARED = [
    ("T5", T5, "encoder/0/attn/rel_embedding", "encoder.block.0.layer.0.SelfAttention"),
    ("T5", T5, "decoder/0/self_attn/rel_embedding", "decoder.block.0.layer.0.SelfAttention"),
    ("Bart", BART, "target/positions", "model.decoder.embed_positions"),
    ("Bart", BART, "embeddings/x/positions", "model.encoder.embed_positions"),
]


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("start", ["T5", "Bart"])
def test_gradients_of_encoder_decoders(start, recompute, tmp_path):
    """One table for all layers gets the gradients of all of them."""
    import torch

    config = {"T5": T5, "Bart": BART}[start]
    theirs = random_model(start, "ForConditionalGeneration", config)
    x, mask, _ = batch(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    y, labels = hf.targets(x), x[:, 1:10].copy()
    given = {"input_ids": x, "attention_mask": mask, "decoder_input_ids": y, "labels": labels}
    theirs(**{k: torch.from_numpy(v) for k, v in given.items()}).loss.backward()
    saved = load(str(tmp_path / "theirs"))
    spec = dataclasses.replace(
        saved.spec, config=dataclasses.replace(saved.spec.config, recompute=recompute, dropout=0.0)
    )
    ours = saved.replaced(spec=spec).model()
    variables = named_variables(ours)
    features = {"x": tf.constant(x.astype(np.int32)), "y": tf.constant(y.astype(np.int32))}

    @tf.function(autograph=False)
    def gradients():
        with tf.GradientTape() as tape:
            logits = ours(features)[..., :99]
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.constant(labels), logits)
            loss = tf.reduce_mean(losses)
        paths = [path for name, _, path, _ in SHARED if name == start]
        return tape.gradient(loss, [variables[path].value for path in paths])

    for found, (_, key) in zip(
        gradients(), [(p, k) for n, _, p, k in SHARED if n == start], strict=True
    ):
        module = theirs.get_submodule(key)
        table = module.relative_attention_bias if start == "T5" else module
        expected = table.weight.grad.numpy()
        expected = expected.T if start == "T5" else expected[2:]
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_weights(dtype, tmp_path):
    import torch

    model = random_model("Roberta", "ForMaskedLM", ROBERTA).to(getattr(torch, dtype))
    model.save_pretrained(tmp_path / "theirs")
    x, mask, tt = batch(model)
    expected = hf.outputs(model.to(torch.float32), x, mask, tt)
    assert_close(our_outputs(load(str(tmp_path / "theirs")), x, mask, tt), expected, mask, 1e-4)


def test_shards_with_an_index(tmp_path):
    model = random_model("Bert", "ForMaskedLM", SIZES)
    model.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").exists()
    x, mask, tt = batch(model)
    expected = hf.outputs(model, x, mask, tt)
    assert_close(our_outputs(load(str(tmp_path / "theirs")), x, mask, tt), expected, mask, 1e-4)


def test_a_pipeline_takes_a_classifier(tmp_path):
    """`transformers.pipeline` loads what we wrote and answers with its labels."""
    from transformers import pipeline

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(94))]
    model = random_model("Bert", "ForSequenceClassification", {**SIZES, **LABELS})
    model.save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "vocab.txt").write_text("".join(f"{word}\n" for word in words))
    saved = load(str(tmp_path / "theirs"))
    assert saved.classifier.task == SEQUENCE
    save(saved, str(tmp_path / "ours"), "hf")
    found = pipeline("text-classification", str(tmp_path / "ours"))("w1 w2 w3", top_k=3)
    ids = np.array([[2, 6, 7, 8, 3]])
    logits = hf.outputs(model, ids, np.ones_like(ids))["logits"][0]
    best = ["bad", "good", "ugly"][int(logits.argmax())]
    assert found[0]["label"] == best
    assert abs(found[0]["score"] - np.exp(logits.max()) / np.exp(logits).sum()) < 1e-5


@pytest.mark.parametrize("kind", ["deberta-v2", "longformer", "nothing"])
def test_other_families_are_refused_by_name(kind, tmp_path):
    random_model("Bert", "ForMaskedLM", SIZES).save_pretrained(tmp_path / "theirs")
    path = tmp_path / "theirs" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": kind}))
    with pytest.raises(UsageError, match=f"{kind}.*distilbert"):
        load(str(tmp_path / "theirs"))


def test_every_family_is_tested():
    tested = {start.lower().replace("xlmroberta", "xlm-roberta") for start, _, _ in CASES}
    assert tested == set(names()) and len(set(names())) == len(FAMILIES)


@pytest.mark.parametrize(
    ("preset", "architecture"),
    [
        ("bert-tiny", "BertForMaskedLM"),
        ("modernbert-tiny", "ModernBertForMaskedLM"),
    ],
)
def test_a_model_trained_with_a_preset_is_one_of_transformers(preset, architecture, tmp_path):
    """No option of the preset keeps the model from being written for `transformers`."""
    from tpu_tlm.config import Config

    config = Config.preset(preset).model
    spec = ModelSpec(config, 99, 24, prefix_id=2, suffix_id=3)
    rng = np.random.default_rng(0)
    values = {
        path: (0.1 * rng.standard_normal(v.shape)).astype(np.float32)
        for path, v in named_variables(build_model(spec)).items()
    }
    saved = PretrainedModel(values, spec, "here")
    save(saved, str(tmp_path / "hf"), "hf")
    theirs = hf.load(architecture, tmp_path / "hf")
    x, mask, tt = batch(theirs)
    assert_close(our_outputs(saved, x, mask, tt), hf.outputs(theirs, x, mask, tt), mask, 1e-4)
