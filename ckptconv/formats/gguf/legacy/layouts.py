"""What comes before the tensors in ggml's files that predate GGUF, for each kind of model.

    i32                magic: "ggml", or "ggmf" or "ggjt" followed by an i32 version
    i32 …              hyperparameters, which differ between models
    …                  in some: filters, a window
    tokens             in some: i32 number of tokens; for each its i32 length and bytes, in some an f32 score

Nothing in a file says which model it is of: each of ggml's examples used the magic ``ggml`` with a layout of its own.

Sources: whisper.cpp/models (convert-pt-to-ggml.py, convert-silero-vad-to-ggml.py, convert-parakeet-to-ggml.py);
llama.cpp/convert_llama_ggml_to_gguf.py; ggml/examples of 2023 (gpt-2, gpt-j, dolly-v2, gpt-neox, starcoder, mpt,
replit); bert.cpp/models/convert-to-ggml.py; bloomz.cpp; rwkv.cpp/docs/FILE_FORMAT.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.errors import CorruptFileError
from ckptconv.io.limits import MAX_DIM, MAX_NODES

if TYPE_CHECKING:
    from ckptconv.core.metadata import MetaNode
    from ckptconv.io.forward import Forward

GGML, GGMF, GGJT = b"lmgg", b"fmgg", b"tjgg"
"""The magics, byte by byte as in the file."""

MAX_NUMBER = (1 << 31) - 1
MAX_TOKEN = 1 << 16
MAX_SIZES = 1 << 16
MAX_ROWS = 1 << 10

VOCABULARY, SCORES = "vocabulary", "scores"


def bad(what: str) -> CorruptFileError:
    """The error for a file that contradicts the layout."""
    return CorruptFileError(f"the ggml file is invalid: {what}")


def read_text(stream: Forward, what: str, most: int) -> str:
    """Read a text behind its length. Bytes that are not UTF-8 become lone surrogates, as in a GGUF."""
    return stream.take(stream.count(f"the length of {what}", most)).decode("utf-8", "surrogateescape")


@dataclass(slots=True)
class Head:
    """What was read before the tensors: values by name; of arrays of floats, the shape and the offset in the file."""

    values: dict[str, MetaNode] = field(default_factory=dict)
    arrays: dict[str, tuple[tuple[int, ...], int]] = field(default_factory=dict)

    def number(self, name: str) -> int:
        """A hyperparameter that was read before."""
        value = self.values[name]
        assert isinstance(value, int)
        return value


Step = Callable[["Forward", Head], None]


@dataclass(frozen=True, slots=True)
class Layout:
    """The layout of the files of one kind of model.

    steps:     what reads the parts behind magic and version, in order.
    first:     how the name of the first tensor may start.
    version:   the number behind the magic; None if the file has none.
    aligned:   whether the elements of each tensor begin at a multiple of 32.
    quantized: whether quantized blocks have ggml's current bits; None if the hyperparameter ``ftype`` says so.
    codes:     whose type numbers the tensors have: "ggml" or "rwkv".
    """

    name: str
    magic: bytes
    steps: tuple[Step, ...]
    first: tuple[str, ...]
    version: int | None = None
    aligned: bool = False
    quantized: bool | None = None
    codes: str = "ggml"


def numbers(names: str) -> Step:
    """Reads hyperparameters in this order: i32, or f32 if the name is in parentheses."""

    def step(stream: Forward, head: Head) -> None:
        for name in names.split():
            if name.startswith("("):
                head.values[name.strip("()")] = stream.real()
            else:
                head.values[name] = stream.count(name, MAX_NUMBER)

    return step


def floats(name: str, rank: int) -> Step:
    """Skips an array of floats behind its `rank` sizes, and notes where it lies."""

    def step(stream: Forward, head: Head) -> None:
        sizes = tuple(stream.count(f"a size of {name}", MAX_SIZES) for _ in range(rank))
        total = 4
        for size in sizes:
            total *= size
        head.arrays[name] = sizes, stream.skip(min(total, MAX_DIM))

    return step


def tokens(count: str = "", *, scored: bool = False) -> Step:
    """Reads the vocabulary: as many tokens as the hyperparameter `count` says, or as a number before them says."""

    def step(stream: Forward, head: Head) -> None:
        most = min(MAX_NODES, stream.left // (8 if scored else 4))
        total = head.number(count) if count else stream.count("the number of tokens", most)
        if total > most:  # usual when another model's layout is tried
            raise bad(f"it claims {total:,} tokens, more than the file can hold")
        vocabulary: list[str] = []
        scores: list[float] = []
        for _ in range(total):
            vocabulary.append(read_text(stream, "a token", MAX_TOKEN))
            if scored:
                scores.append(stream.real())
        head.values[VOCABULARY] = vocabulary
        if scored:
            head.values[SCORES] = scores

    return step


def text(name: str) -> Step:
    """Reads a text behind its length."""

    def step(stream: Forward, head: Head) -> None:
        head.values[name] = read_text(stream, name, 256)

    return step


def rows(name: str, count: str, width: int) -> Step:
    """Reads rows of `width` numbers, as many rows as the hyperparameter `count` says."""

    def step(stream: Forward, head: Head) -> None:
        total = head.number(count)
        if total > MAX_ROWS:
            raise bad(f"{count} is {total:,}")
        head.values[name] = [[stream.signed(4) for _ in range(width)] for _ in range(total)]

    return step


_LLAMA = numbers("n_vocab n_embd n_mult n_head n_layer n_rot ftype")
_LLAMAS = ("tok_embeddings.", "norm.", "output.", "layers.")

LAYOUTS = (
    Layout("whisper", GGML, (
        numbers("n_vocab n_audio_ctx n_audio_state n_audio_head n_audio_layer n_text_ctx n_text_state n_text_head "
                "n_text_layer n_mels ftype"),
        floats("mel_filters", 2), tokens(),
    ), ("encoder.", "decoder.")),
    Layout("parakeet", GGML, (
        numbers("n_vocab n_audio_ctx n_audio_state n_audio_head n_audio_layer n_mels ftype n_fft subsampling_factor "
                "n_subsampling_channels n_pred_dim n_pred_layers n_tdt_durations n_max_tokens"),
        floats("mel_filters", 2), floats("window", 1), rows("tdt_durations", "n_tdt_durations", 1), tokens(),
    ), ("encoder.", "decoder.", "joint.", "preprocessor.")),
    Layout("silero-vad", GGML, (
        text("model_type"), numbers("major minor patch window_size context_size n_encoder_layers"),
        rows("encoder_layers", "n_encoder_layers", 3),
        numbers("lstm_input_size lstm_hidden_size final_conv_in final_conv_out"),
    ), ("_model.",)),
    Layout("gpt-2", GGML, (numbers("n_vocab n_ctx n_embd n_head n_layer ftype"), tokens()), ("model/", "transformer.")),
    Layout("gpt-j", GGML, (numbers("n_vocab n_ctx n_embd n_head n_layer n_rot ftype"), tokens()), ("transformer.",)),
    Layout("gpt-neox", GGML, (
        numbers("n_vocab n_ctx n_embd n_head n_layer n_rot par_res ftype"), tokens("n_vocab"),
    ), ("gpt_neox.", "embed_out.")),
    Layout("mpt", GGML, (
        numbers("d_model max_seq_len n_heads n_layers n_vocab (alibi_bias_max) (clip_qkv) ftype"), tokens("n_vocab"),
    ), ("transformer.",)),
    Layout("replit", GGML, (
        numbers("d_model max_seq_len n_heads n_layers n_vocab ftype"), tokens("n_vocab", scored=True),
    ), ("transformer.",)),
    Layout("llama", GGML, (_LLAMA, tokens("n_vocab")), _LLAMAS, quantized=False),
    Layout("bert", GGML, (
        numbers("n_vocab n_max_tokens n_embd n_intermediate n_head n_layer ftype"), tokens("n_vocab"),
    ), ("embeddings.", "encoder.layer.")),
    Layout("bloom", GGML, (numbers("n_vocab n_embd n_mult n_head n_layer ftype"), tokens("n_vocab")), _LLAMAS),
    Layout("llama", GGMF, (_LLAMA, tokens("n_vocab", scored=True)), _LLAMAS, 1, quantized=False),
    *(Layout("rwkv", GGMF, (numbers("n_vocab n_embed n_layer ftype"),), ("emb.", "blocks."), version,
             quantized=version > 100, codes="rwkv") for version in (100, 101)),
    *(Layout("llama", GGJT, (_LLAMA, tokens("n_vocab", scored=True)), _LLAMAS, version, aligned=True,
             quantized=version > 2) for version in (1, 2, 3)),
)  # fmt: skip
"""If several fit, the right one is the one that knows the first tensor's name, else the earliest in this list."""
