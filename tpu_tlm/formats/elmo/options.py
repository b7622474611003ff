"""ELMo's `options.json`: sizes, checked, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tpu_tlm.config import ModelConfig
from tpu_tlm.config.elmo import CHARACTERS, SHIFT, ElmoConfig
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.json_files import ConfigReader
from tpu_tlm.models.spec import ModelSpec

# Sizes beyond these are refused before anything is built; the largest published model has 4096.
_WIDTH, _LAYERS, _FILTERS, _HIGHWAY, _CHARACTERS = 65_536, 64, 64, 16, 512
# AllenNLP's dropout on the mixed vectors.
_DROPOUT = 0.5
# Key of what only we know; other readers ignore it.
_OWN = "tpu_tlm"
# Tokens of a text where nothing else is said: the model itself takes any number.
_LENGTH = 512


def _part(values: Mapping[str, Any], key: str, where: str) -> ConfigReader:
    part = values.get(key)
    if not isinstance(part, dict):
        raise UsageError(f"{where}: has no object {key!r}; it is not the options.json of an ELMo")
    return ConfigReader(part, f"{where}: {key}")


def _clip(reader: ConfigReader, key: str) -> float | None:
    # AllenNLP takes 0 for no limit, bilm-tf null.
    return reader.number(key, 0.0, high=1e9) or None


def _filters(reader: ConfigReader, characters: int) -> tuple[tuple[int, int], ...]:
    given = reader.values.get("filters")
    if not isinstance(given, list) or not 1 <= len(given) <= _FILTERS:
        reader.fail("filters", f"a list of 1 to {_FILTERS} pairs [width, count] is needed")
    found = []
    for pair in given:
        good = isinstance(pair, list) and len(pair) == 2
        if not good or any(isinstance(n, bool) or not isinstance(n, int) for n in pair):
            reader.fail("filters", "pairs [width, count] of whole numbers are needed")
        width, count = pair
        if not 1 <= width <= characters or not 1 <= count <= _WIDTH:
            reader.fail("filters", f"widths up to {characters}, counts up to {_WIDTH} are needed")
        found.append((width, count))
    return tuple(found)


def read_options(values: Mapping[str, Any], where: str, has_projection: bool) -> ElmoConfig:
    """The sizes in an `options.json`; has_projection: whether the weights have `CNN_proj`.

    Raises `UsageError` naming the file and the key of what is missing or not supported.
    """
    lstm, cnn = _part(values, "lstm", where), _part(values, "char_cnn", where)
    ConfigReader(values, where).only("bidirectional", True)
    if "use_skip_connections" not in lstm.values:
        lstm.fail("use_skip_connections", "true or false is needed")
    characters = cnn.size("max_characters_per_token", low=4, high=_CHARACTERS, default=50)
    embedding = _part(cnn.values, "embedding", f"{where}: char_cnn")
    activation = cnn.choice("activation", "", {"relu": "relu", "tanh": "tanh"})
    number = cnn.size("n_characters", low=1, high=_WIDTH, default=CHARACTERS + SHIFT)
    if number not in (CHARACTERS, CHARACTERS + SHIFT):  # a training run's own options say 261
        cnn.fail("n_characters", f"{CHARACTERS + SHIFT} is needed")
    config = ElmoConfig(
        characters,
        embedding.size("dim", high=_WIDTH),
        _filters(cnn, characters),
        activation,
        cnn.size("n_highway", low=0, high=_HIGHWAY, default=0, null=True),
        lstm.size("dim", high=_WIDTH),
        lstm.size("projection_dim", high=_WIDTH),
        lstm.size("n_layers", high=_LAYERS),
        _clip(lstm, "cell_clip"),
        _clip(lstm, "proj_clip"),
        lstm.flag("use_skip_connections", True),
        has_projection,
    )
    if not has_projection and config.convolved != config.projection:
        raise UsageError(
            f"{where}: filters have {config.convolved} outputs, projection_dim is "
            f"{config.projection}; the weights need CNN_proj/W_proj"
        )
    return config


def write_options(spec: ModelSpec) -> dict[str, Any]:
    """The `options.json` of a model; `read_options` and `spec_of` read it back."""
    config = spec.elmo
    assert config is not None
    return {
        _OWN: {
            "dropout": spec.config.dropout,
            "layer_norm": config.layer_norm,
            "mask_pad": spec.config.mask_pad,
        },
        "lstm": {
            "use_skip_connections": config.skip,
            "projection_dim": config.projection,
            "cell_clip": config.cell_clip,
            "proj_clip": config.proj_clip,
            "dim": config.dim,
            "n_layers": config.layers,
        },
        "char_cnn": {
            "activation": config.activation,
            "filters": [list(pair) for pair in config.filters],
            "n_highway": config.highway,
            "embedding": {"dim": config.character_size},
            "n_characters": CHARACTERS + SHIFT,
            "max_characters_per_token": config.characters,
        },
    }


def spec_of(
    config: ElmoConfig, values: Mapping[str, Any] | None = None, where: str = ""
) -> ModelSpec:
    """The spec of an ELMo of these sizes; `values` of an `options.json` may have settings of ours.

    Raises `UsageError` naming a setting that is not possible.
    """
    inside = (values or {}).get(_OWN) or {}
    if not isinstance(inside, dict):
        raise UsageError(f"{where}: {_OWN} must be an object")
    reader = ConfigReader(inside, f"{where}: {_OWN}")
    norm = inside.get("layer_norm")
    if norm is not None:
        norm = reader.choice("layer_norm", "", {"allennlp": "allennlp", "bilm": "bilm"})
        config = dataclasses.replace(config, layer_norm=norm)
    own = ModelConfig(
        d_model=2 * config.projection,
        d_ff=4 * config.dim,
        num_heads=1,
        num_layers=config.layers,
        dropout=reader.number("dropout", _DROPOUT, high=0.999),
        mask_pad=reader.flag("mask_pad", False),
    )
    return ModelSpec(own, CHARACTERS + SHIFT, _LENGTH, pad_id=0, kind="elmo", elmo=config)
