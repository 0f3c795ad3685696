"""Parser of SentencePiece's tokenizer.model: one protobuf message, ModelProto.

    ModelProto      1* pieces  2 trainer_spec  3 normalizer_spec
    SentencePiece   1 piece (UTF-8)  2 score (float)  3 type: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused,
                    6 byte; 1 by default
    TrainerSpec     3 model_type: 1 unigram, 2 BPE, 3 word, 4 char; 1 by default
    NormalizerSpec  2 precompiled_charsmap  3 add_dummy_prefix  4 remove_extra_whitespaces; both true by default

Other fields are skipped. Refused, besides what `ckptconv.io.protobuf` refuses: known fields of other wire types, pieces
that are not UTF-8, and scores that are not finite.

Source: github.com/google/sentencepiece, src/sentencepiece_model.proto.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from struct import Struct
from typing import TYPE_CHECKING

from ckptconv.errors import CorruptFileError, LimitError
from ckptconv.formats.gguf.hub.documents import HINT
from ckptconv.io.limits import MAX_NODES
from ckptconv.io.protobuf import FIXED32, LEN, VARINT, fields_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.io.protobuf import Field

UNIGRAM, BPE = 1, 2
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

_FLOAT = Struct("<f")


@dataclass(slots=True)
class Model:
    """A parsed tokenizer.model.

    pieces:   (text, score, type), in the order of their ids.
    kind:     the model_type.
    charsmap: the precompiled_charsmap.
    prefix:   whether a space is put before a text.
    trims:    whether extra whitespace is removed.
    """

    pieces: list[tuple[str, float, int]] = field(default_factory=list)
    kind: int = UNIGRAM
    charsmap: bytes = b""
    prefix: bool = True
    trims: bool = True


def looks_like_a_model(data: bytes) -> bool:
    """Whether the file starts with a piece. tiktoken's files can have the same name, and are lines of base64."""
    return data[:1] == b"\x0a" and not data[1:2].isalnum()


def parse(data: bytes) -> Model:
    """Parse a tokenizer.model. Raises CorruptFileError, LimitError."""
    model = Model()
    for number, wire, start, end in _fields(data, 0, len(data)):
        if number == 1:
            _expect(wire, LEN)
            if len(model.pieces) >= MAX_NODES:
                raise LimitError(f"tokenizer.model has more than {MAX_NODES:,} pieces")
            model.pieces.append(_piece(data, start, end))
        elif number == 2:
            _expect(wire, LEN)
            for inner, inner_wire, value, _ in _fields(data, start, end):
                if inner == 3:
                    _expect(inner_wire, VARINT)
                    model.kind = value
        elif number == 3:
            _expect(wire, LEN)
            _normalizer(model, data, start, end)
    return model


def _piece(data: bytes, start: int, end: int) -> tuple[str, float, int]:
    text, score, kind = b"", 0.0, NORMAL
    for number, wire, begin, stop in _fields(data, start, end):
        if number == 1:
            _expect(wire, LEN)
            text = data[begin:stop]
        elif number == 2:
            _expect(wire, FIXED32)
            (score,) = _FLOAT.unpack_from(data, begin)
        elif number == 3:
            _expect(wire, VARINT)
            kind = begin
    if not math.isfinite(score) or not NORMAL <= kind <= BYTE:
        raise _bad(f"the piece {text[:40]!r} has the score {score} and the type {kind}")
    try:
        return text.decode("utf-8"), score, kind
    except UnicodeDecodeError as error:
        raise _bad(f"the piece {text[:40]!r} is not UTF-8") from error


def _normalizer(model: Model, data: bytes, start: int, end: int) -> None:
    for number, wire, value, stop in _fields(data, start, end):
        if number == 2:
            _expect(wire, LEN)
            model.charsmap = data[value:stop]
        elif number == 3:
            _expect(wire, VARINT)
            model.prefix = bool(value)
        elif number == 4:
            _expect(wire, VARINT)
            model.trims = bool(value)


def _fields(data: bytes, start: int, end: int) -> Iterator[Field]:
    return fields_in(data, start, end, _bad)


def _expect(wire: int, expected: int) -> None:
    if wire != expected:
        raise _bad(f"a known field has the wire type {wire}")


def _bad(what: str) -> CorruptFileError:
    return CorruptFileError(f"tokenizer.model is not a SentencePiece model: {what}", hint=HINT)
