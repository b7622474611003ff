"""Word counts of parts as files of a directory that several processes see.

A file says what was counted, and carries a checksum: leftovers of another corpus or of other
options, and damaged files, are never taken for counts of this one.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tpu_tlm import filesystem
from tpu_tlm.data.corpus.bad_input import BadInput
from tpu_tlm.data.made_from import differences
from tpu_tlm.data.tokenizers.word_counts import WordCounts

_NAME = re.compile(r"counts-([0-9a-f]{16})-(\d{6,})")
# What a file holds beside the words.
_FACTS = ("letters", "documents", "lines", "size", "weight", "dropped")


class DamagedCounts(Exception):
    """A file that is not what its name says; the text names it."""


@dataclass(frozen=True)
class CountFiles:
    """The files in `directory` (local or gs://) of the counts of one corpus with one set of
    options, which `made_from` describes as JSON values.
    """

    directory: str
    made_from: dict[str, Any]

    @property
    def key(self) -> str:
        """A hash of `made_from`, part of the files' names."""
        text = json.dumps(self.made_from, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def path(self, part: int) -> str:
        """The file of a part."""
        return f"{self.directory}/counts-{self.key}-{part:06d}"

    def listed(self) -> tuple[set[int], list[str]]:
        """The parts that have a file, and paths of counts of another corpus or other options.

        A file appears when it is complete.
        """
        key, present, foreign = self.key, set(), []
        for match in map(_NAME.fullmatch, filesystem.list_names(self.directory)):
            if match and match[1] == key:
                present.add(int(match[2]))
            elif match:
                foreign.append(f"{self.directory}/{match[0]}")
        return present, foreign

    def difference(self, path: str) -> str:
        """How what a foreign file was made from differs, in words."""
        try:
            old = _header(path, filesystem.read_bytes(path))[0].get("made_from")
        except DamagedCounts as error:
            return str(error)
        return differences(old, self.made_from) if isinstance(old, dict) else "not ours"

    def save(self, part: int, counts: WordCounts) -> None:
        """Write the counts of a part: from now on it is counted."""
        text, numbers = counts.pack()
        facts = {name: getattr(counts, name) for name in _FACTS} | {"bad": asdict(counts.bad)}
        content = json.dumps({**facts, "words": len(numbers)}).encode() + b"\n"
        # JSON may hold half a surrogate pair, which UTF-8 cannot.
        content += numbers.astype("<i8").tobytes() + text.encode("utf-8", "surrogatepass")
        body = zlib.compress(content, 1)
        header = {"made_from": self.made_from, "part": part, "sha256": filesystem.sha256(body)}
        filesystem.write_bytes(self.path(part), json.dumps(header).encode() + b"\n" + body)

    def load(self, part: int) -> WordCounts:
        """The counts of a part, in the order in which they were. Raises `DamagedCounts`."""
        path = self.path(part)
        header, body = _header(path, filesystem.read_bytes(path))
        if header.get("sha256") != filesystem.sha256(body):
            raise DamagedCounts(f"{path}: is damaged (its checksum differs)")
        if (header.get("made_from"), header.get("part")) != (self.made_from, part):
            raise DamagedCounts(f"{path}: holds counts of something else")
        first, _, rest = zlib.decompress(body).partition(b"\n")
        facts = json.loads(first)
        end = 8 * facts.pop("words")
        packed = rest[end:].decode("utf-8", "surrogatepass"), np.frombuffer(rest[:end], "<i8")
        letters, bad = Counter(facts.pop("letters")), BadInput(**facts.pop("bad"))
        return WordCounts(letters=letters, bad=bad, packed=packed, **facts)


def _header(path: str, data: bytes) -> tuple[dict[str, Any], bytes]:
    """What a file says of itself, and the bytes after that."""
    first, _, body = data.partition(b"\n")
    try:
        header = json.loads(first)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise DamagedCounts(f"{path}: is damaged (no header)")
    return header, body
