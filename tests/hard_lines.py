"""Lines that tokenizers tend to split differently: all of Unicode, controls, long words, spaces."""

from __future__ import annotations

import random
import sys

_TEXT = (
    "The Senate of the United States, déjà vu; naïve façade. ΟΔΥΣΣΕΥΣ Σίσυφος İstanbul ǅ ß ﬁ "
    "東京都は日本の首都です。 你好世界 สวัสดีชาวโลก नमस्ते مرحبا بالعالم שלום 한국어 Привет мир "
    "don't they'll we've I'm it's 3.14 1,000,000 50% #tag @user http://a.b/c?d=e&f e-mail\t"
    "``quoted'' “curly” «guillemets» ... … — – x86_64 C++ f(x)=y[0] </s> <mask> [MASK] @@ ## ▁ Ġ"
).split(" ")
_SPACES = " \t\u00a0\u1680\u2003\u200a\u2028\u202f\u205f\u3000\u200b\ufeff\u200d\u00ad\x0b\x0c\x85"
_MARKS = "\u0300\u0301\u0308\u0327\u093c\u0e48\u3099\ufe0f\u20e3"
_BLOCKS = (
    (0x21, 0x7E),
    (0xA1, 0x24F),
    (0x250, 0x52F),
    (0x590, 0x6FF),
    (0x900, 0xE7F),
    (0x1100, 0x11FF),
    (0x1E00, 0x1FFF),
    (0x2010, 0x2BFF),
    (0x3040, 0x30FF),
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A3),
    (0xE000, 0xE0FF),
    (0xF900, 0xFB4F),
    (0xFE30, 0xFFEF),
    (0x10000, 0x103FF),
    (0x1D400, 0x1D7FF),
    (0x1F300, 0x1FAFF),
    (0x20000, 0x2A6DF),
    (0xE0100, 0xE01EF),
)


def _word(draw: random.Random) -> str:
    kind = draw.randrange(12)
    if kind < 5:
        word = draw.choice(_TEXT)
        return draw.choice((word, word, word.upper(), word.lower(), word.title()))
    if kind < 8:
        first, last = draw.choice(_BLOCKS)
        return "".join(chr(draw.randint(first, last)) for _ in range(draw.randint(1, 9)))
    if kind == 8:
        return "".join(
            draw.choice("aeiouAEIOUnN") + draw.choice(_MARKS) for _ in range(draw.randint(1, 5))
        )
    if kind == 9:
        return draw.choice("abcé中x1.") * draw.choice((1, 7, 99, 100, 101, 250))
    if kind == 10:
        return "".join(chr(draw.choice((draw.randrange(32), 127, 0x80, 0x9F))) for _ in range(3))
    code = draw.randrange(sys.maxunicode)
    return chr(code) if not 0xD800 <= code < 0xE000 else "?"


def hard_lines(count: int, seed: int = 0) -> list[str]:
    """Lines without line feeds and carriage returns, the same for the same seed."""
    draw = random.Random(seed)
    lines = []
    for _ in range(count):
        parts = []
        for _ in range(draw.randint(0, 12)):
            parts += [_word(draw), draw.choice(("", " ", " ", " ", "  ", draw.choice(_SPACES)))]
        lines.append("".join(parts).replace("\n", "").replace("\r", ""))
    return lines
