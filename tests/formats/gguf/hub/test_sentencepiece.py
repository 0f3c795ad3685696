"""SentencePiece's tokenizer.model, spelled out by hand, and damaged in every way."""

from __future__ import annotations

import pytest

from ckptconv.errors import CkptconvError, CorruptFileError, LimitError
from ckptconv.formats.gguf.hub import sentencepiece
from ckptconv.formats.gguf.hub.sentencepiece import BPE, looks_like_a_model, parse

GOLDEN = (
    b"\x0a\x0e\x0a\x05<unk>\x15\x00\x00\x00\x00\x18\x02"  # a piece: its text, its score, 0.0, and its type, unknown
    b"\x0a\x0c\x0a\x03<s>\x15\x00\x00\x00\x00\x18\x03"  # a control token
    b"\x0a\x0f\x0a\x06<0x0A>\x15\x00\x00\x00\x00\x18\x06"  # a byte
    b"\x0a\x0b\x0a\x04\xe2\x96\x81a\x15\x00\x00\x80\xbf"  # "▁a", of the score -1.0, and no type: a normal one
    b"\x12\x04\x18\x02\x20\x04"  # the trainer: model_type 2, BPE; vocab_size, passed over
    b"\x1a\x0a\x12\x02\x01\x02\x18\x00\x20\x00\x28\x01"  # the normalizer: a map, no dummy prefix, no trimming
)


def test_golden_bytes() -> None:
    model = parse(GOLDEN)
    assert model.pieces == [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("<0x0A>", 0.0, 6), ("\u2581a", -1.0, 1)]
    assert (model.kind, model.charsmap, model.prefix, model.trims) == (BPE, b"\x01\x02", False, False)
    assert looks_like_a_model(GOLDEN)
    assert not looks_like_a_model(b"IQ== 0\nIg== 1\n")


def test_cut_off_anywhere_it_is_whole_or_an_error() -> None:
    whole = parse(GOLDEN).pieces
    for length in range(len(GOLDEN)):
        try:
            found = parse(GOLDEN[:length]).pieces
        except CkptconvError as error:
            assert error.hint
        else:
            assert found == whole[: len(found)]


def test_with_any_bit_changed_it_is_read_or_an_error() -> None:
    for at in range(len(GOLDEN)):
        for bit in range(8):
            changed = bytearray(GOLDEN)
            changed[at] ^= 1 << bit
            try:
                parse(bytes(changed))
            except CkptconvError as error:
                assert error.hint


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x0a\x05\x15\x00\x00\xc0\x7f", "has the score nan"),
        (b"\x0a\x02\x18\x07", "the type 7"),
        (b"\x0a\x03\x0a\x01\xff", "is not UTF-8"),
        (b"\x08\x01", "a known field has the wire type 0"),
        (b"\x0b", "wire type 3"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "more than 64 bits"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "reaches past the end of its message"),
        (b"\x02\x00", "reaches past the end of its message, or is malformed"),
    ],
)
def test_what_is_no_model_is_reported(data: bytes, words: str) -> None:
    with pytest.raises(CorruptFileError, match=words):
        parse(data)


def test_more_pieces_than_any_vocabulary_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentencepiece, "MAX_NODES", 3)
    with pytest.raises(LimitError, match="more than 3 pieces"):
        parse(GOLDEN)
