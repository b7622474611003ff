"""What a learned vocabulary is to do with text, from the options of `vocab`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from tpu_tlm.config import VocabConfig
from tpu_tlm.errors import UsageError

ROBERTA = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class LearnOptions:
    """Kind, sizes and normalization of a vocabulary to learn.

    `special`: further special tokens; `reserve`: so many `[unused0]` ... after them.
    """

    kind: str
    vocab_size: int
    min_frequency: int = 2
    lower: bool = False
    strip_accents: bool = False
    normalization: str = "none"
    special: tuple[str, ...] = ()
    reserve: int = 0

    @classmethod
    def of(cls, config: VocabConfig) -> LearnOptions:
        """From the command's options; `UsageError` for those that this kind does not use."""
        lower = not config.cased if config.lower_case is None else config.lower_case
        if config.lower_case is not None and not config.cased and not config.lower_case:
            raise UsageError("--lower_case false: contradicts --cased false: leave one out")
        bert = config.subword_type == "wordpiece"
        strip = (bert and lower) if config.strip_accents is None else config.strip_accents
        options = cls(
            config.subword_type,
            config.vocab_size,
            config.min_frequency,
            lower,
            strip,
            config.normalization,
            tuple(dict.fromkeys(config.special_tokens)),
            config.reserve,
        )
        if config.subword_type == "bpe":
            unused = {
                "normalization": config.normalization != "none",
                "strip_accents": bool(config.strip_accents),
                "reserve": config.reserve > 0,
            }
            for name, given in unused.items():
                if given:
                    raise UsageError(f"--{name}: fastBPE's files cannot say it: leave it out")
        if any(token.split() != [token] for token in options.special):
            raise UsageError("--special_tokens: a token has no white space and is not empty")
        if config.subword_type == "bpe":
            if pieces := [token for token in options.special if token.endswith(("@@", "</w>"))]:
                raise UsageError(f"--special_tokens {pieces[0]!r}: is spelled like a piece of bpe")
        return options

    def check_pieces(self, tokens: list[str]) -> None:
        """Raise `UsageError` where a special token is a piece of the text, too."""
        count = Counter(tokens)
        if twice := [token for token in self.special_tokens() if count[token] > 1]:
            raise UsageError(
                f"--special_tokens {twice[0]!r}: is a piece that the text needs: give a token "
                "that no text has"
            )

    @property
    def is_bert(self) -> bool:
        """Whether the result is what BERT's own tokenizer does, with a vocab.txt."""
        return (
            self.kind == "wordpiece"
            and self.normalization == "none"
            and self.strip_accents == self.lower
            and not set(self.special) - set(BERT)
        )

    def special_tokens(self) -> list[str]:
        """The special tokens in the order of their ids, reserved ones last."""
        own = BERT if self.kind == "wordpiece" else ROBERTA
        return list(dict.fromkeys([*own, *self.special, *self.reserved()]))

    def reserved(self) -> list[str]:
        """The reserved tokens."""
        return [f"[unused{i}]" for i in range(self.reserve)]

    def normalizer(self) -> Any:
        """A normalizer of the library `tokenizers`, or None."""
        from tokenizers import normalizers

        steps: list[Any] = []
        if self.normalization != "none":
            steps.append({"nfc": normalizers.NFC, "nfkc": normalizers.NFKC}[self.normalization]())
        if self.kind == "wordpiece":
            steps.append(
                normalizers.BertNormalizer(
                    clean_text=True,
                    handle_chinese_chars=True,
                    strip_accents=self.strip_accents,
                    lowercase=self.lower,
                )
            )
        else:
            if self.strip_accents:
                steps += [normalizers.NFD(), normalizers.StripAccents(), normalizers.NFC()]
            if self.lower:
                steps.append(normalizers.Lowercase())
        if len(steps) > 1:
            return normalizers.Sequence(steps)
        return steps[0] if steps else None

    def pre_tokenizer(self) -> Any:
        """A pre-tokenizer of the library `tokenizers`."""
        from tokenizers import pre_tokenizers

        if self.kind == "wordpiece":
            return pre_tokenizers.BertPreTokenizer()
        if self.kind == "byte-bpe":
            return pre_tokenizers.ByteLevel(add_prefix_space=False)
        return pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
        )
