"""Tokenizers of a GGUF's metadata: the ids that the first tokenizer.json gave, and those that transformers reads."""

from __future__ import annotations

import base64
import json
import math
from typing import TYPE_CHECKING, Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import TensorInfo, in_memory
from ckptconv.errors import CkptconvError, CorruptFileError, LimitError, UnsupportedError
from ckptconv.formats.gguf.hub.config import Config
from ckptconv.formats.gguf.hub.documents import Documents
from ckptconv.formats.gguf.hub.pre import row_by_name
from ckptconv.formats.gguf.hub.tokenizer import tokenizer
from ckptconv.formats.gguf.to_hub.said import Said
from ckptconv.formats.gguf.to_hub.tokenizer import RestoredTokenizer, restore_tokenizer
from ckptconv.io.folder import Folder
from tests.formats.gguf.hub.test_tokenizer import PRE, byte_level, saved

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = (
    "", " ", "hell", "the hell of it", "  two  spaces ", "tabs\t\tand\r\n\n\nlines\n", "3.14 and 1234567",
    "don't WON'T", "é ü ñ ß œ", "日本語 中文 한국어", "😶\u200d🌫️ 🇩🇪", "<s>he</s> x<s> y", "<unk> <unused7>",
    "a\u0301 \u00e1", "x" * 50, "def f(a, b):\n    return a[0] + {'k': b}\n", "\x00\x7f\ufffd", "_under_score-dash…",
    "▁ literal ▁",
)  # fmt: skip


def entries(folder: Path, rows: int, **config: Any) -> dict[object, object]:
    """What to-gguf makes of a folder's tokenizer."""
    with Folder(folder) as opened:
        made = tokenizer(Documents(opened), Config(config), rows, None)
    return {"general.architecture": "llama"} | {key: value for key, (_, value) in made.items()}


def restored(said: dict[object, object], rows: int) -> RestoredTokenizer | None:
    embeddings = in_memory(TensorInfo.of(DType.F32, (rows, 1)), bytes(4 * rows))
    return restore_tokenizer(Said(said, {"token_embd.weight": embeddings}))


def again(made: Tokenizer, folder: Path, rows: int = 0, **config: Any) -> Tokenizer:
    """The tokenizer, there and back."""
    saved(folder, tokenizer_json=made.to_str(), tokenizer_config_json=config)
    rows = rows or made.get_vocab_size()
    found = restored(entries(folder, rows), rows)
    assert found is not None
    return Tokenizer.from_str(json.dumps(found.documents["tokenizer.json"]))


def assert_same_ids(found: Tokenizer, wanted: Tokenizer, texts: tuple[str, ...] = TEXTS) -> None:
    for text in texts:
        assert found.encode(text).ids == wanted.encode(text).ids, text
        ids = wanted.encode(text, add_special_tokens=False).ids
        texts_of = [one.decode(ids, skip_special_tokens=False) for one in (found, wanted)]
        assert texts_of[0] == texts_of[1]
    pair = [one.encode("he", "hell").ids for one in (found, wanted)]
    assert pair[0] == pair[1]


@pytest.mark.parametrize("row", PRE, ids=[row["name"] for row in PRE])
def test_bytes_with_every_way_to_split_texts(row: dict[str, Any], tmp_path: Path) -> None:
    made = byte_level(row)
    made.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B:1", [("<s>", 260)])
    if row.get("nfc"):
        made.normalizer = normalizers.NFC()
    assert_same_ids(again(made, tmp_path, 270, bos_token="<s>", eos_token="</s>"), made)


def test_every_other_name_has_the_same_steps() -> None:
    names = [name for row in PRE for name in row.get("also", ())]
    assert len({*names}) == len(names)
    assert not {*names} & {row["name"] for row in PRE}
    assert row_by_name("llama3") == row_by_name("llama-bpe")
    assert row_by_name("default") is None


def sentencepiece(*, prefix: bool) -> Tokenizer:
    """SentencePiece's BPE, as transformers converts it."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [
        *"▁helotwrdsainx",
        "he",
        "ll",
        "▁t",
        "▁h",
        "th",
        "▁th",
        "▁he",
        "hell",
        "▁hell",
        "the",
        "▁the",
        "▁▁",
        "xx",
    ]
    ids = {piece: number for number, piece in enumerate(pieces)}
    cuts = ((piece[:at], piece[at:]) for piece in pieces[272:] for at in range(1, len(piece)))
    merges = [(left, right) for left, right in cuts if left in ids and right in ids]
    made = Tokenizer(models.BPE(vocab=ids, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    spaces = normalizers.Replace(" ", "▁")
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces] if prefix else [spaces])
    last = [decoders.Strip(" ", 1, 0)] if prefix else []
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *last])
    made.add_special_tokens([AddedToken(piece, normalized=False, special=True) for piece in pieces[:3]])
    made.add_tokens([AddedToken("two words", normalized=False)])
    made.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B:1", [("<s>", 1)])
    return made


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_whose_merges_are_scores(prefix: bool, tmp_path: Path) -> None:
    made = sentencepiece(prefix=prefix)
    assert_same_ids(
        again(made, tmp_path, 300, bos_token="<s>", eos_token="</s>", unk_token="<unk>"), made, (*TEXTS, "two words")
    )


def test_unigrams(tmp_path: Path) -> None:
    """With the table of normalizations that SentencePiece calls nmt_nfkc, in short."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("▁he", -3.5), ("ll", -4.0), ("▁the", -3.0)]
    pieces += [(letter, -6.0 - number / 8) for number, letter in enumerate("helotwrdsainx123.")]
    made = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    made.normalizer = normalizers.Sequence([normalizers.Strip(left=False), normalizers.Replace(" {2,}", " ")])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.add_special_tokens(["<pad>", "</s>", "<unk>"])
    made.add_tokens([AddedToken("<extra_id_0>", normalized=False)])
    made.post_processor = processors.TemplateProcessing("$A </s>", "$A </s> $B </s>", [("</s>", 1)])
    found = again(made, tmp_path, 40, eos_token="</s>", unk_token="<unk>", pad_token="<pad>")
    texts = tuple(text for text in TEXTS if "  " not in text and "\n" not in text)
    assert_same_ids(found, made, (*texts, "he <extra_id_0> the"))


def test_a_table_of_normalizations_comes_back(tmp_path: Path) -> None:
    table = base64.b64encode(b"\x04\0\0\0trieand texts\0").decode()
    vocabulary = [["<unk>", 0.0], ["▁", -1.0]]
    model = {"type": "Unigram", "unk_id": 0, "vocab": vocabulary}
    document = {"model": model, "normalizer": {"type": "Precompiled", "precompiled_charsmap": table}}
    saved(tmp_path, tokenizer_json=json.dumps(document))
    found = restored(entries(tmp_path, 2), 2)
    assert found is not None
    steps = found.documents["tokenizer.json"]["normalizer"]["normalizers"]
    assert steps[0] == {"type": "Precompiled", "precompiled_charsmap": table}


def test_blanks_of_t5_get_their_names_back() -> None:
    """Its SentencePiece file has 32,000 pieces, and its embeddings 128 rows more; 100 of them are T5Tokenizer's."""
    pieces, rows = ["<pad>", "</s>", "<unk>", *(f"p{number}" for number in range(3, 32_000))], 32_128
    texts = [*pieces, *(f"[PAD{number}]" for number in range(32_000, rows))]
    said: dict[object, object] = {
        "general.architecture": "t5", "tokenizer.ggml.model": "t5", "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.scores": [0.0] * rows, "tokenizer.ggml.token_type": [1] * 32_000 + [5] * 128,
    }  # fmt: skip
    found = restored(said, rows)
    assert found is not None
    made = Tokenizer.from_str(json.dumps(found.documents["tokenizer.json"]))
    assert [made.token_to_id(f"<extra_id_{number}>") for number in (0, 99)] == [32_099, 32_000]
    assert made.get_vocab_size() == 32_100
    assert [finding.code for finding in found.findings] == ["tokens"]


@pytest.mark.parametrize("lowercase", [True, False])
def test_wordpiece(lowercase: bool, tmp_path: Path) -> None:
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "[unused1]",
        "the",
        "he",
        "##ll",
        "##l",
        "x",
        "##x",
        "3",
        "é",
    ]
    words += ["e", ".", "日", "two", "words", *([] if lowercase else ["WON", "The"])]
    made = Tokenizer(models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    made.pre_tokenizer, made.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    made.add_special_tokens(words[:5])
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    made.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", [("[CLS]", 2), ("[SEP]", 3)]
    )
    assert_same_ids(again(made, tmp_path), made, (*TEXTS, "The [MASK] hell x[SEP]x"))
    said = entries(tmp_path, len(words))
    del said["tokenizer.ggml.normalizer.lowercase"], said["tokenizer.ggml.normalizer.strip_accents"]
    found = restored(said, len(words))
    assert found is not None
    assert found.documents["tokenizer.json"]["normalizer"]["lowercase"] is lowercase
    assert [finding.code for finding in found.findings] == ["normalizer"]


def test_settings_and_chat_templates(tmp_path: Path) -> None:
    templates = [{"name": "default", "template": "{{ x }}"}, {"name": "tools", "template": "{{ y }}"}]
    config = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>", "chat_template": templates}
    saved(tmp_path, tokenizer_json=byte_level().to_str(), tokenizer_config_json=config)
    said = entries(tmp_path, 264) | {"llama.context_length": 99}
    found = restored(said, 264)
    assert found is not None
    assert found.documents["tokenizer_config.json"] == {
        **config, "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False,
        "model_max_length": 99,
    }  # fmt: skip


WORDS = ["he", "ll", "hell", "h", "e", "l"]
BYTES: dict[str, Any] = {"model": "gpt2", "pre": "qwen2", "tokens": WORDS, "merges": ["h e", "l l", "he ll"]}


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"model": "rwkv"}, UnsupportedError, "a tokenizer 'rwkv'"),
        ({"pre": "default"}, UnsupportedError, "'default' splits texts is not known"),
        ({"pre": None}, UnsupportedError, "'None' splits texts"),
        ({"merges": ["h e", "e h"]}, CorruptFileError, "'e h' does not make a token of two"),
        ({"merges": 3}, CorruptFileError, r"tokenizer\.ggml\.merges is no list"),
        ({"tokens": ["a", "a"]}, CorruptFileError, "the same text twice"),
        ({"tokens": []}, CorruptFileError, "is no list of str"),
        ({"tokens": ["a", 1]}, CorruptFileError, "is no list of str"),
        ({"token_type": [1]}, CorruptFileError, "has 1 items, of 6 tokens"),
        ({"model": "llama", "scores": [math.nan] * 6}, CorruptFileError, "no numbers"),
        ({"model": "llama", "tokens": ["a" * 2000]}, LimitError, "a token has 2,000 characters"),
        ({"tokens": ["a", "\udcff"]}, CorruptFileError, "bytes that are no UTF-8"),
        ({"tokens": [*map(str, range(100))]}, CorruptFileError, "has 100 tokens, and the embeddings"),
        ({"add_bos_token": 1}, CorruptFileError, "add_bos_token is '1'"),
        ({"model": "t5", "precompiled_charsmap": [300]}, CorruptFileError, "is no bytes"),
        ({"model": "t5", "precompiled_charsmap": b"\x09\0\0\0trie"}, CorruptFileError, "is cut short"),
        ({"model": "bert", "tokens": ["▁##x", "##x", "x"]}, CorruptFileError, "twice"),
        ({"model": "bert", "tokens": ["▁x"]}, CorruptFileError, r"has no '\[UNK\]'"),
    ],
)
def test_what_makes_no_tokenizer_is_refused(changed: dict[str, Any], error: type[CkptconvError], words: str) -> None:
    said: dict[object, object] = {f"tokenizer.ggml.{key}": value for key, value in (BYTES | changed).items()}
    with pytest.raises(error, match=words):
        restored(said, 6)


def test_without_a_tokenizer_there_is_none() -> None:
    assert restored({"tokenizer.ggml.model": "none"}, 6) is None
    assert restored({}, 6) is None


def test_merges_that_come_to_far_more_than_the_file_are_refused() -> None:
    said: dict[object, object] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["a", *(first + "a" * length for first in "abcd" for length in range(1, 900))],
    }
    with pytest.raises(LimitError, match="characters of all merges"):
        restored(said, 4000)
