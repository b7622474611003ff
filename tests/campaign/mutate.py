"""Damaged and hostile inputs from good ones, by the structure of their kind; all by a seed."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

import yaml

Chance = random.Random

NAMES = (
    "../secret/model.safetensors",
    "../secret/vocab.txt",
    "../../evil",
    "/dev/zero",
    "/etc/passwd",
    ".bashrc",
    "a/b",
    "..",
    ".",
    "",
    "~",
    "pipe",
    "link",
    "a\0b",
    "a\nb",
    "C:\\x",
    "-rf",
    "gs://b/x",
    "x" * 300,
    "\ud800",
    "\u202e",
    "ä",
)
NUMBERS = (
    *(0, 1, -1, 2, 7, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63, 2**64),
    *(-(2**63), 10**30, 0.5, -0.5, 1e-300, 1e300, float("nan"), float("inf"), -0.0),
)
ODD = (
    None,
    True,
    False,
    [],
    {},
    "",
    [[]],
    {"": {}},
    [None],
    "1",
    "true",
    "1e9",
    "nan",
    "2020-01-01",
)
LONG = "9" * 5000
CODE = (
    "!!python/object/apply:os.system ['touch CANARY']",
    "!!python/object/new:os.system ['touch CANARY']",
    "__import__('os').system('touch CANARY')",
    "cos\nsystem\n(S'touch CANARY'\ntR.",
)
# pickle: os.system("touch CANARY")
PICKLE = b"\x80\x02cposix\nsystem\nX\x0c\x00\x00\x00touch CANARY\x85R."


def hostile(chance: Chance) -> Any:
    """A value that nobody expects."""
    kind = chance.randrange(8)
    if kind < 2:
        return chance.choice(NAMES)
    if kind < 4:
        return chance.choice(NUMBERS)
    if kind < 6:
        return copy.deepcopy(chance.choice(ODD))
    if kind == 6:
        return chance.choice((*CODE, "x" * 100_000, LONG, "\x1b[2J", "{" * 300))
    return [hostile(chance) for _ in range(chance.randrange(4))]


def _places(tree: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    items = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    )
    for key, value in items:
        found.append((tree, key))
        if len(found) < 4000:
            _places(value, found)
    return found


def tree(value: Any, chance: Chance) -> Any:
    """A copy with one to three places changed: value, type, name, presence, depth."""
    value = copy.deepcopy(value)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        places = _places(value, [])
        if not places:
            return hostile(chance)
        parent, key = chance.choice(places)
        action = chance.randrange(9)
        if action < 4:
            parent[key] = hostile(chance)
        elif action == 4:
            del parent[key]
        elif action == 5 and isinstance(parent, dict):
            parent[str(hostile(chance))[:400]] = parent.pop(key)
        elif action == 5:
            parent.insert(key, hostile(chance))
        elif action == 6:
            other, at = chance.choice(places)
            if isinstance(other, list) or at in other:
                try:
                    parent[key], other[at] = other[at], parent[key]
                except (KeyError, IndexError):
                    pass
            value = copy.deepcopy(value) if _finite(value) else {"swapped": True}
        elif action == 7:
            parent[key] = _deep(parent[key], chance.choice((3, 60, 400)))
        elif isinstance(parent[key], (int, float)) and not isinstance(parent[key], bool):
            parent[key] = parent[key] * chance.choice((-1, 0, 2, 10, 1000)) + chance.choice(
                (0, 1, -1)
            )
        elif isinstance(parent[key], str):
            parent[key] = text(parent[key].encode("utf-8", "replace"), chance).decode(
                "utf-8", "replace"
            )
        elif isinstance(parent[key], list):
            parent[key] = parent[key] * chance.choice((0, 2, 50))
    return value


def _finite(value: Any, depth: int = 0, seen: tuple[int, ...] = ()) -> bool:
    """Whether a tree does not contain itself."""
    if not isinstance(value, (dict, list)):
        return True
    if id(value) in seen:
        return False
    inside = value.values() if isinstance(value, dict) else value
    return all(_finite(v, depth + 1, (*seen, id(value))) for v in inside)


def _deep(value: Any, levels: int) -> Any:
    for _ in range(levels):
        value = [value] if levels % 2 else {"a": value}
    return value


def _text_of_json(value: Any, chance: Chance) -> bytes:
    written = json.dumps(value, indent=chance.choice((None, 1, 2)))
    return written.encode("utf-8", "surrogatepass")


def json_file(raw: bytes, chance: Chance) -> bytes:
    """A JSON file changed as a tree or as text."""
    if chance.random() < 0.75:
        return _text_of_json(tree(json.loads(raw), chance), chance)
    action = chance.randrange(8)
    if action == 0:
        return b"[" * chance.choice((200, 100_000)) + raw
    if action == 1:
        return raw.replace(b":", b": " + LONG.encode() + b', "x":', 1)
    if action == 2:
        return raw.replace(b"{", b'{"a": 1, "a": 2, ', 1)
    if action == 3:
        return raw.decode("utf-8", "replace").encode(
            chance.choice(("utf-16", "utf-32", "utf-8-sig"))
        )
    if action == 4:
        return raw.replace(b"}", b', "n": NaN, "i": -Infinity}', 1)
    if action == 5:
        return raw.replace(b'"', b'"\\ud800', chance.randrange(1, 4))
    return damaged(raw, chance)


def yaml_file(raw: bytes, chance: Chance) -> bytes:
    """A YAML file changed as a tree or as text."""
    if chance.random() < 0.65:
        changed = tree(yaml.safe_load(raw), chance)
        written = yaml.safe_dump(changed, sort_keys=False, allow_unicode=chance.random() < 0.5)
        return written.encode("utf-8", "surrogatepass")
    action = chance.randrange(11)
    lines = raw.splitlines(keepends=True)
    at = chance.randrange(len(lines))
    if action == 0:
        bomb = [b"a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"]
        bomb += [
            b"a%d: &a%d [%s]\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 10)) for i in range(1, 10)
        ]
        return raw + b"".join(bomb)
    if action == 1:
        return b"".join([*lines[:at], b"k: " + chance.choice(CODE).encode() + b"\n", *lines[at:]])
    if action == 2:
        return raw + b"deep: " + b"[" * chance.choice((100, 100_000)) + b"\n"
    if action == 3:
        return b"".join([*lines[: at + 1], *lines[at:]])  # a key twice
    if action == 4:
        return raw.decode("utf-8", "replace").encode(
            chance.choice(("utf-16", "utf-32", "utf-8-sig"))
        )
    if action == 5:
        return raw + b"---\n" + raw
    if action == 6:
        value = chance.choice(
            (
                b".inf",
                b"-.nan",
                b"1e999",
                b"0x7fffffffffffffffffff",
                b"2020-13-45",
                b"1:60:60",
                b"!!binary ////",
                b"? [a]",
                b"<<: *x",
                b"!!set {a}",
                b'"\\ud800"',
                b"'unclosed",
                b"&a [*a]",
                b"@x",
                b"%YAML 9.9",
            )
        )
        key = lines[at].split(b":")[0]
        return b"".join([*lines[:at], key + b": " + value + b"\n", *lines[at + 1 :]])
    if action == 7:
        return raw.replace(b": ", b":\t", chance.randrange(1, 5))
    if action == 8:
        return b"".join(chance.sample(lines, len(lines)))
    return damaged(raw, chance)


def damaged(raw: bytes, chance: Chance) -> bytes:
    """Bytes flipped, cut, doubled, moved or overwritten."""
    data = bytearray(raw)
    action = chance.randrange(7)
    at = chance.randrange(max(1, len(data)))
    if not data or action == 0:
        return bytes(data[:at])
    if action == 1:
        for _ in range(chance.choice((1, 1, 5, 50))):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif action == 2:
        data[at : at + 8] = chance.choice((b"\xff" * 8, b"\0" * 8, b"\x7f" + b"\xff" * 7))
    elif action == 3:
        data[at:at] = data[at : at + chance.choice((1, 16, 4096))]
    elif action == 4:
        del data[at : at + chance.choice((1, 4, 64))]
    elif action == 5:
        data += chance.randbytes(chance.choice((1, 64, 4096)))
    else:
        data[at : at + 64] = chance.randbytes(64)
    return bytes(data)


def text(raw: bytes, chance: Chance) -> bytes:
    """A text with lines and characters that no text should have."""
    lines = raw.splitlines(keepends=True) or [b"\n"]
    at = chance.randrange(len(lines))
    odd = (
        b"\0",
        b"\xff\xfe",
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf",
        b"\x1b[2J",
        b"\xc2\x85",
        b"\xe2\x80\xa8",
        "\u202e\u0301\u0300".encode(),
        b"\r",
        b"\x0c",
        b"\t" * 50,
        b" " * 5000,
        b"x" * 300_000,
        b"",
        ("\u4e00" * 2000).encode(),
        "👩‍👩‍👧‍👦".encode() * 50,
        b"[MASK][SEP][CLS]",
        b"9" * 3000,
        b"<EOU><GO>",
        b'"',
        b"\\",
        b"a\tb\tc\td\te",
        b"{",
        b"\xf4\x90\x80\x80",
    )
    action = chance.randrange(8)
    if action == 0:
        lines[at] = chance.choice(odd) + b"\n"
    elif action == 1:
        where = chance.randrange(len(lines[at]) + 1)
        lines[at] = lines[at][:where] + chance.choice(odd) + lines[at][where:]
    elif action == 2:
        lines.insert(at, lines[chance.randrange(len(lines))])
    elif action == 3:
        del lines[at]
    elif action == 4:
        lines = [
            line.replace(b"\n", chance.choice((b"\r", b"\r\n", b"\n\n", b"\0\n", b"")))
            for line in lines
        ]
    elif action == 5:
        return raw.decode("utf-8", "replace").encode(
            chance.choice(("utf-16", "utf-32", "utf-8-sig"))
        )
    elif action == 6:
        chance.shuffle(lines)
    else:
        return damaged(raw, chance)
    return b"".join(lines)


Mutator = Callable[[bytes, Chance], bytes]
