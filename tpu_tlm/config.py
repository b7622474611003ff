"""Every option of every command: one dataclass per concern, the only place where a default and its meaning stand."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from tpu_tlm.options import opt

SUBWORDS = ("bpe", "wordpiece")


@dataclass(frozen=True)
class CorpusConfig:
    """Input text."""

    input_files: list[str] = opt([], "files, directories or globs of text, local or gs://", required=True, unit="path")
    input_pattern: str = opt("*.txt", "which files to take inside a directory", unit="glob")
    json_field: str = opt("text", "field that holds the text in JSON lines (.json, .jsonl, also .gz and .zst)", unit="name")
    strict: bool = opt(False, "stop at the first bad input (undecodable bytes, empty file, JSON line without the field)")


@dataclass(frozen=True)
class TokenizerConfig:
    """Subword tokenizer."""

    subword_type: str = opt("bpe", "kind of subwords", choices=SUBWORDS)
    codes: str | None = opt(None, "fastBPE codes file (bpe)", unit="file", aliases=("subword_model_file",))
    vocab: str | None = opt(None, "fastBPE vocab file, or BERT vocab.txt", unit="file", aliases=("subword_vocab_file",))
    cased: bool = opt(True, "keep capital letters; false lower-cases (wordpiece: also strips accents, as BERT uncased)")
    extra_tokens: list[str] = opt(["[CLS]", "[MASK]"], "tokens that get the ids after the four specials (bpe)", unit="token")


@dataclass(frozen=True)
class VocabConfig:
    """Vocabulary learning."""

    output: str = opt("", "directory for codes + vocab (bpe) or vocab.txt (wordpiece)", required=True, unit="dir")
    subword_type: str = opt("bpe", "kind of subwords", choices=SUBWORDS)
    vocab_size: int = opt(30000, "bpe: merges to learn (lines of codes); wordpiece: lines of vocab.txt", unit="entries")
    cased: bool = opt(True, "keep capital letters; false lower-cases (wordpiece: also strips accents, as BERT uncased)")
    min_frequency: int = opt(2, "pairs seen less often are not merged", unit="count")
    workers: int = opt(0, "processes that count words; 0 = one per core", unit="processes")


@dataclass(frozen=True)
class PreprocessConfig:
    """Dataset writing."""

    output: str = opt("", "dataset directory (local or gs://); with --valid_fraction gets train/ and valid/", required=True, unit="dir")
    nctx: int = opt(256, "length of an example, prefix and suffix included", unit="tokens")
    prefix: str | None = opt(None, "token put at the start of every example, never masked", unit="token")
    suffix: str | None = opt(None, "token put at the end of every example, never masked", unit="token")
    tok_on_eol: str | None = opt("<EOS>", "token appended to every line (wordpiece: <EOS> means [SEP]); none appends nothing", unit="token")
    pack: str = opt(
        "across",
        "across: full examples run over lines and documents; documents: boundaries kept, rest padded",
        choices=("across", "documents"),
    )
    max_file_size: float = opt(100.0, "largest size of a shard", unit="MiB")
    shuffle: bool = opt(True, "shuffle examples over the whole corpus while writing")
    seed: int = opt(0, "seed of the shuffle and of the split", unit="integer")
    valid_fraction: float = opt(0.0, "share of the documents held out into valid/", unit="0..1")
    workers: int = opt(0, "processes; 0 = one per core", unit="processes")
    work_dir: str | None = opt(None, "local scratch space for a copy of the dataset; none = in --output (gs://: temporary)", unit="dir")


@dataclass(frozen=True)
class ModelConfig:
    """Model."""

    d_model: int = opt(512, "width of the model", unit="units")
    d_ff: int = opt(2048, "width inside the feed-forward layers", unit="units")
    num_heads: int = opt(8, "attention heads", unit="heads")
    num_layers: int = opt(8, "encoder blocks", unit="layers", aliases=("layers",))
    d_k: int | None = opt(None, "width of one head; none = d_model / num_heads", unit="units")
    dsz: int | None = opt(None, "width of the token table when it is factorised (ALBERT, ELECTRA); none = d_model", unit="units")
    embed_type: str = opt(
        "default",
        "default: token table only; learned-positional: plus a learned position table (-w-bias: and a bias); positional: sines, "
        "interleaved as "
        "MEAD; positional-t2t: sines, in halves; modular: ConveRT's two tables by position modulo 47 and 11",
        choices=("default", "learned-positional", "learned-positional-w-bias", "positional", "positional-t2t", "modular"),
    )
    mxlen: int | None = opt(None, "rows of the learned position table; none = nctx", unit="positions")
    embeddings_reduction: str = opt("sum", "how embedded features are joined", choices=("sum", "concat", "sum-layer-norm"))
    token_type_vsz: int = opt(0, "token types (BERT has 2); 0 = no token-type table", unit="types")
    rpr_k: list[int] = opt([8], "Shaw relative positions reach this far; one number or one per layer; 0 = off", unit="positions")
    rpr_value_on: bool = opt(True, "relative positions act on the values too")
    ra_type: str = opt(
        "shaw",
        "relative attention; shaw: by --rpr_k; convert: a bias per head and distance up to --rpr_k (ConveRT); the others do not "
        "use --rpr_k",
        choices=("shaw", "alibi", "t5", "convert", "rotary"),
    )
    windowed_ra: bool = opt(False, "a token sees others up to --rpr_k away only")
    local_window: int = opt(0, "a token sees others up to this far away only, in the layers that are not global; 0 = all", unit="positions")
    global_every: int = opt(3, "with --local_window: layers 0, n, 2n... see everything", unit="layers")
    rotary_base: float = opt(10000.0, "rotary: the longest wavelength is 2 pi times this", unit="number")
    single_head: bool = opt(False, "the form of one head without output projection, values as wide as the model (MEAD's --num_heads 1)")
    segment_mask: bool = opt(False, "text after an end-of-line token and text before it do not see each other")
    mlp: bool = opt(False, "gated MLP blocks instead of attention (arXiv 2105.08050)")
    compat: str = opt(
        "none",
        "mead: where MEAD differs, do as it does (windows give probability to places off the text; reductions count padding and "
        "multiply by the "
        "root of the length)",
        choices=("none", "mead"),
    )
    transformer_type: str = opt(
        "pre-layer-norm",
        "where the norms stand; mead: its default order, in which the normalised value is the residual",
        choices=("pre-layer-norm", "post-layer-norm", "mead"),
    )
    layer_norms_after: bool = opt(False, "the same as --transformer_type post-layer-norm")
    norm_type: str = opt("layer-norm", "kind of norm", choices=("layer-norm", "rms-norm"))
    layer_norm_eps: float = opt(1e-12, "added to the variance in norms", unit="number")
    activation: str = opt(
        "gelu",
        "inside the feed-forward layers; gelu is the tanh form; geglu and swiglu have a gate, a third matrix",
        choices=("gelu", "gelu-exact", "relu", "geglu", "swiglu"),
    )
    tie_weights: bool = opt(True, "the output projection is the token table")
    output_bias: bool = opt(False, "a bias on the logits")
    mlm_head: str = opt("none", "what stands before the projection; bert: dense, activation, layer norm", choices=("none", "bert"))
    reduction_type: str = opt(
        "2ha",
        "dual encoder: how positions become one vector; sha, 2ha: one or two attention heads, then sum / root of the length, mean or max",
        choices=("2ha", "2ha_mean", "2ha_max", "sha", "sha_mean", "sha_max", "cls", "mean", "max", "sqrt_length"),
    )
    reduction_d_k: int = opt(64, "dual encoder: width of queries and keys of the reduction heads", unit="units")
    d_out: int = opt(512, "dual encoder: width of a text's vector", unit="units")
    stacking_layers: list[int] = opt([], "dual encoder: hidden sizes of ConveRT's feed-forward head; none = one dense layer", unit="units")
    num_decoder_layers: int | None = opt(None, "decoder blocks of an encoder-decoder; none = num_layers", unit="layers")
    mask_pad: bool = opt(True, "padding is not attended to (MEAD's pre-training attends to it)")
    dropout: float = opt(0.1, "on attention weights and residual branches", unit="0..1")
    ffn_pdrop: float = opt(0.0, "inside the feed-forward layers", unit="0..1")
    embeddings_dropout: float = opt(0.0, "on the reduced embeddings", unit="0..1")
    weight_init: str = opt("bert", "bert: truncated normal of weight_std; mead: Glorot uniform, tables uniform", choices=("bert", "mead"))
    weight_std: float = opt(0.02, "standard deviation of the bert initialisation", unit="number")
    residual_scaling: bool = opt(
        False, "initial matrices that end a residual branch are divided by the root of the number of branches (GPT-2)"
    )
    layer_drop: float = opt(0.0, "chance that an example passes a block by, while training (LayerDrop)", unit="0..1")
    recompute: bool = opt(
        False, "keep only the input of each block for the backward pass and compute the rest again: less memory, more time"
    )

    def __post_init__(self) -> None:
        if self.layer_norms_after:
            object.__setattr__(self, "transformer_type", "post-layer-norm")

    def rpr_k_of(self, layer: int) -> int:
        """Reach of the learned relative positions in one layer (0 = it has none)."""
        if not self.rpr_k or self.mlp or self.ra_type not in ("shaw", "convert"):
            return 0
        return self.rpr_k[0] if len(self.rpr_k) == 1 else self.rpr_k[layer]

    def window_of(self, layer: int) -> int | None:
        """How far a token sees in one layer (None: everything)."""
        if self.windowed_ra:
            return self.rpr_k_of(layer)
        return self.local_window if self.local_window and layer % self.global_every else None


@dataclass(frozen=True)
class MlmConfig:
    """Masked language modelling."""

    mask_rate: float = opt(0.15, "share of the maskable tokens to predict while training", unit="0..1")
    eval_mask_rate: float = opt(0.15, "the same in evaluation, where the masks are fixed", unit="0..1")
    mask_mode: str = opt("token", "what is masked as one", choices=("token", "whole-word", "span"))
    mask_token_rate: float = opt(0.8, "of the chosen tokens, share replaced by the mask token", unit="0..1")
    mask_random_rate: float = opt(0.1, "of the chosen tokens, share replaced by a random token; the rest stay", unit="0..1")
    span_mean: float = opt(3.8, "mean length of a span", unit="words")
    span_max: int = opt(10, "longest span", unit="words")


@dataclass(frozen=True)
class DataConfig:
    """Data."""

    train_dir: str = opt("", "dataset directory to train on", required=True, unit="dir")
    valid_dir: str | None = opt(None, "dataset directory to evaluate on", unit="dir")
    batch_size: int = opt(256, "examples per optimizer step over all replicas", unit="examples")
    eval_batch_size: int | None = opt(None, "examples per evaluation step; none = batch_size", unit="examples")
    window_shards: int = opt(16, "shards, or 4 MiB pieces of larger ones, permuted together (held twice in memory)", unit="shards")
    num_train_workers: int = opt(4, "shards read in parallel", unit="shards")
    verify_data: bool = opt(False, "check every shard's checksum before training")


@dataclass(frozen=True)
class OptimConfig:
    """Optimizer and schedule."""

    optim: str = opt("adamw", "optimizer", choices=("adamw", "adam", "lamb", "adafactor", "sgd"))
    lr: float = opt(4e-4, "peak learning rate", unit="number")
    lr_schedule: str = opt(
        "cosine", "shape after the warm-up; wsd: constant, then a linear decay", choices=("cosine", "linear", "rsqrt", "wsd", "constant")
    )
    warmup_steps: int = opt(10000, "linear warm-up from lr/warmup_steps to lr", unit="steps")
    lr_end: float = opt(0.0, "linear, cosine, wsd: learning rate at the last step, as a share of lr", unit="0..1")
    wsd_decay: float = opt(0.1, "wsd: share of the steps that decay", unit="0..1")
    weight_decay: float = opt(1e-2, "decoupled, not on norms and biases; adam has none", unit="number")
    clip: float = opt(1.0, "largest global gradient norm; 0 = no clipping", unit="norm")
    beta1: float = opt(0.9, "decay of the first moment (sgd: momentum)", unit="0..1")
    beta2: float = opt(0.98, "decay of the second moment", unit="0..1")
    eps: float = opt(1e-6, "adamw, adam, lamb: added to the root of the second moment", unit="number")
    grad_accum: int = opt(1, "micro-batches per optimizer step; batch_size is divided by it", unit="micro-batches")


@dataclass(frozen=True)
class RunConfig:
    """Run."""

    basedir: str = opt("", "run directory: the same command again continues it", required=True, unit="dir")
    objective: str = opt("mlm", "what is learned; mlm: hidden tokens; clm: the next token", choices=("mlm", "clm"))
    causal: bool = opt(False, "the same as --objective clm")
    steps: int | None = opt(None, "optimizer steps; none = from --epochs", unit="steps")
    epochs: float = opt(32.0, "passes over the training data, when --steps is not given", unit="epochs")
    steps_per_call: int = opt(100, "optimizer steps the device runs before the host hears of it", unit="steps")
    saves_per_epoch: int = opt(10, "checkpoints per epoch, when --save_steps is not given", unit="saves")
    save_steps: int | None = opt(None, "steps between checkpoints", unit="steps")
    keep: int = opt(5, "newest checkpoints kept", unit="checkpoints")
    keep_every: int = opt(0, "checkpoints at multiples of this many steps are kept for good; 0 = none", unit="steps")
    eval_steps: int | None = opt(None, "steps between evaluations; none = at every save", unit="steps")
    init_from: str | None = opt(
        None, "weights to start from, of any kind that convert reads (run, NPZ, HuggingFace, BERT...), with a fresh optimizer", unit="path"
    )
    npz: bool = opt(False, "write an NPZ in MEAD's layout at every save")
    tb: bool = opt(True, "write TensorBoard scalars")
    seed: int = opt(0, "of initial weights, order of examples, masks and dropout", unit="integer")

    def __post_init__(self) -> None:
        if self.causal:
            object.__setattr__(self, "objective", "clm")
            object.__setattr__(self, "causal", False)  # one way to say it: either spelling continues the same run


@dataclass(frozen=True)
class RuntimeConfig:
    """Devices."""

    distribute: str = opt(
        "auto", "how replicas are made; auto picks by what is there", choices=("auto", "tpu", "multiworker", "mirror", "none")
    )
    tpu: str | None = opt(None, "TPU to use: local, a name, or grpc://host:port", unit="name", aliases=("tpu_ep",))
    logical_cpus: int = opt(0, "mirror: split the processor into so many devices, to try it without GPUs; 0 = do not", unit="devices")
    precision: str = opt(
        "auto", "bfloat16: parameters stay float32; auto: bfloat16 on TPU, else float32", choices=("auto", "float32", "bfloat16")
    )
    xla: bool = opt(True, "compile the step with XLA (always so on TPU)")


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluation."""

    model: str = opt("", "run directory or NPZ", required=True, unit="path")
    data: str = opt("", "dataset directory", required=True, unit="dir")
    batch_size: int = opt(64, "examples per step", unit="examples")
    eval_mask_rate: float = opt(0.15, "share of the maskable tokens to predict", unit="0..1")
    step: int | None = opt(None, "checkpoint to take; none = the newest good one", unit="step")


@dataclass(frozen=True)
class ConvertConfig:
    """Conversion."""

    source: str = opt("", "run directory, NPZ (ours or MEAD's), HuggingFace directory, BERT checkpoint, SavedModel", positional=True)
    destination: str = opt("", "NAME.npz, or a directory to make", positional=True)
    to: str | None = opt(
        None,
        "what to write; bert: Google's TensorFlow checkpoint; savedmodel: takes raw strings; none = npz when the name ends with .npz",
        choices=("npz", "hf", "bert", "savedmodel"),
    )
    step: int | None = opt(None, "checkpoint of the run to take; none = the newest good one", unit="step")
    tokenizer: str | None = opt(None, "tokenizer directory, where none lies beside the model", unit="dir")
    mead_config: str | None = opt(None, "JSON file of MEAD's hyper-parameters for an NPZ of MEAD's; none = the model flags", unit="file")
    family: str | None = opt(None, "hf: the kind of model to write; none = the nearest", choices=("bert", "roberta", "electra", "gpt2"))
    length: int | None = opt(None, "savedmodel: tokens that a text is cut and padded to; none = those of a training example", unit="tokens")
    overwrite: bool = opt(False, "write into a directory that is not empty")


@dataclass(frozen=True)
class PredictConfig:
    """Trying a model out."""

    task: str = opt(
        "",
        "what to do: guess what the masks in the texts hide, or write on from the texts",
        choices=("fill-mask", "generate"),
        positional=True,
    )
    model: str = opt("", "run directory or NPZ", required=True, unit="path")
    text: list[str] = opt([], "text to complete; without it, lines of standard input", unit="text")
    top_k: int | None = opt(None, "fill-mask: guesses per mask (none = 5); generate: draw from this many (none = all)", unit="tokens")
    temperature: float = opt(1.0, "generate: logits are divided by this; 0 takes the most probable token", unit="number")
    top_p: float = opt(1.0, "generate: draw from the fewest tokens that have this probability together", unit="0..1")
    max_tokens: int = opt(64, "generate: tokens to write at most", unit="tokens")
    seed: int = opt(0, "generate: of the draws", unit="integer")
    step: int | None = opt(None, "checkpoint of the run to take; none = the newest good one", unit="step")
    tokenizer: str | None = opt(None, "tokenizer directory; none = the one beside the model", unit="dir")
    json: bool = opt(False, "one JSON object a line instead of a table")


@dataclass(frozen=True)
class DoctorConfig:
    """Checks."""

    json: bool = opt(False, "print the findings as JSON")


def replace(config, **changes):  # type: ignore[no-untyped-def]
    """A copy of an option instance with some values changed."""
    return dataclasses.replace(config, **changes)
