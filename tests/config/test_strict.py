"""The strict YAML and JSON readers: plain values, and one line for every fault."""

from __future__ import annotations

import json

import pytest
import yaml

from tpu_tlm.config.strict import entry, mapping, read_json, read_yaml
from tpu_tlm.errors import TlmError, UsageError

BOMB = "a: &a [x]\n" + "".join(f"b{i}: [*a, *a]\n" for i in range(3))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, ["line 1", "aliases"]),
        ("a: *b\n", ["line 1"]),
        ("[" * 3000 + "]" * 3000, ["nested"]),
        ("a: " + "{a: " * 40 + "1" + "}" * 40, ["nested"]),
        ("lr: .inf\n", ["lr", "finite"]),
        ("lr: .nan\n", ["lr", "finite"]),
        ("lr: 1.0e+999\n", ["lr", "finite"]),
        ("a:\n  b: [1, 2020-01-01]\n", ["line 2", "a.b[1]", "date"]),
        ("a: 1\na: 2\n", ["line 2", "'a'", "twice"]),
        ("1: 2\n", ["key"]),
        ("? [a]\n: b\n", ["key"]),
        ("<<: {a: 1}\n", ["merge"]),
        ("a: !!python/object/apply:os.system [ls]\n", ["a", "tag"]),
        ("a: 010\n", ["a", "ambiguous"]),
        ("a: 1:30\n", ["a", "ambiguous"]),
        ("a: " + "9" * 5000, ["a", "too large"]),
        ("a: [\n", ["not YAML"]),
        ("a: b: c\n", ["line 1", "not YAML"]),
        ("a: 1\n---\nb: 2\n", ["second document"]),
        ("a: \x00\n", ["line 1", "NUL"]),
        ("a: \x07\n", ["not YAML"]),
        ("a: 1\n".encode("utf-16"), ["UTF-16"]),
        (b"a: 1\nb: \xff\n", ["line 2", "UTF-8"]),
    ],
)
def test_a_fault_in_yaml_is_one_line_naming_the_file(text, words):
    with pytest.raises(UsageError) as error:
        read_yaml(text, "c.yaml")
    message = str(error.value)
    assert message.startswith("c.yaml: ") and "\n" not in message and len(message) < 200
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100000 + "]" * 100000, ["nested"]),
        ('{"a": ' * 40 + "1" + "}" * 40, ["nested"]),
        ('{"a": NaN}', ["NaN", "finite"]),
        ('{"a": -Infinity}', ["finite"]),
        ('{"a": 1e999}', ["finite"]),
        ('{"a": 1, "a": 2}', ["'a'", "twice"]),
        ('{"a": ' + "9" * 5000 + "}", ["too large"]),
        ('{"a": "\\ud800"}', ["surrogate"]),
        ('{"a"\n: ]', ["line 2", "not JSON"]),
        ("", ["not JSON"]),
        ("{}".encode("utf-16"), ["UTF-16"]),
        (b'{"a": "\xff"}', ["UTF-8"]),
        ('{"a": "\x00"}', ["NUL"]),
    ],
)
def test_a_fault_in_json_is_one_line_naming_the_file(text, words):
    with pytest.raises(UsageError) as error:
        read_json(text, "config.json")
    message = str(error.value)
    assert message.startswith("config.json: ") and "\n" not in message and len(message) < 200
    assert all(word in message for word in words), message


def test_size_is_bounded():
    for read in (read_yaml, read_json):
        with pytest.raises(UsageError, match="1,000 bytes"):
            read(" " * 1000, "f", max_bytes=999)


def test_plain_values_are_read_as_pyyaml_and_json_read_them():
    values = {
        "a": [1, -2, 0, 1.5, 1e-06, True, False, None, "", "yes", "1", "2020-01-01", "1e5", "ü"],
        "b": {"c": {"d": "e: f"}, "empty": {}, "none": []},
        "big": 2**63,
        "010": "0x1f",
    }
    assert read_yaml(yaml.safe_dump(values), "f") == values
    assert read_yaml(yaml.safe_dump(values, default_flow_style=True), "f") == values
    assert read_json(json.dumps(values), "f") == values
    assert read_json(json.dumps(values, ensure_ascii=False).encode(), "f") == values
    assert read_yaml("a: on\nb: 0x1F\nc: 1_000\nd: ~\n", "f") == {
        "a": True,
        "b": 31,
        "c": 1000,
        "d": None,
    }
    assert read_yaml("", "f") is None and read_yaml("# only a comment\n", "f") is None
    assert read_yaml(b"\xef\xbb\xbfa: 1\n", "f") == read_json(b'\xef\xbb\xbf{"a": 1}', "f")


def test_the_kind_of_error_is_the_caller_s():
    with pytest.raises(TlmError) as error:
        read_json("{", "f", error=TlmError)
    assert type(error.value) is TlmError


def test_an_entry_is_checked():
    values = mapping(read_json('{"n": 3, "x": 2, "s": "t", "b": true, "none": null}', "f"), "f")
    assert entry(values, "n", int, "f", minimum=3, maximum=3) == 3
    assert entry(values, "x", float, "f") == 2.0 and entry(values, "b", bool, "f") is True
    assert entry(values, "none", str, "f", default="d") == "d"
    for key, kind, words in [("b", int, "whole"), ("s", int, "'t'"), ("no", str, "missing")]:
        with pytest.raises(UsageError, match=f"f: {key} .*{words}"):
            entry(values, key, kind, "f")
    with pytest.raises(UsageError, match="f: n is 3; it must be at least 4"):
        entry(values, "n", int, "f", minimum=4)
    with pytest.raises(UsageError, match="f: n is 3; it must be at most 2"):
        entry(values, "n", int, "f", maximum=2)
    with pytest.raises(UsageError, match="mapping"):
        mapping([1], "f")
