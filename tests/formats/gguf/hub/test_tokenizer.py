"""Tokenizers as llama.cpp has them: those that the tokenizers library writes, and what the gguf package reads of it."""

from __future__ import annotations

import base64
import json
import tomllib
from importlib import resources
from typing import TYPE_CHECKING, Any

import pytest
from gguf import SpecialVocab
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from ckptconv.errors import CkptconvError, CorruptFileError, EditError, LimitError, UnsupportedError
from ckptconv.formats.gguf.hub import documents as documents_module
from ckptconv.formats.gguf.hub.config import Config
from ckptconv.formats.gguf.hub.documents import Documents
from ckptconv.formats.gguf.hub.pre import pre_name
from ckptconv.formats.gguf.hub.tokenizer import tokenizer
from ckptconv.io.folder import Folder
from tests.formats.gguf.hub.test_sentencepiece import GOLDEN

if TYPE_CHECKING:
    from pathlib import Path

PRE = tomllib.loads((resources.files("ckptconv.formats.gguf.hub") / "pre.toml").read_text("utf-8"))["pre"]
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def saved(folder: Path, **documents: Any) -> Path:
    """JSON of objects, texts and bytes as they are; ``_`` in a name is a dot where no file is called otherwise."""
    folder.mkdir(exist_ok=True)
    for name, document in documents.items():
        stem, _, ending = name.rpartition("_")
        path = folder / f"{stem}.{ending}"
        if isinstance(document, bytes):
            path.write_bytes(document)
        else:
            path.write_text(document if isinstance(document, str) else json.dumps(document), "utf-8")
    return folder


def found_in(folder: Path, rows: int, pre: str | None = None, **config: Any) -> tuple[dict[str, Any], Documents]:
    with Folder(folder) as opened:
        documents = Documents(opened)
        entries = tokenizer(documents, Config(config), rows, pre)
    return {key.removeprefix("tokenizer.").removeprefix("ggml."): one[1] for key, one in entries.items()}, documents


def steps(row: dict[str, Any]) -> pre_tokenizers.PreTokenizer:
    made = {
        "digits": lambda _: pre_tokenizers.Digits(individual_digits=True),
        "gpt2": lambda _: pre_tokenizers.ByteLevel(add_prefix_space=False),
        "bytes": lambda _: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        "split": lambda regex: pre_tokenizers.Split(Regex(regex), "isolated"),
    }
    parts = [made[word](regex) for word, _, regex in (step.partition(" ") for step in row["steps"])]
    return parts[0] if len(parts) == 1 else pre_tokenizers.Sequence(parts)


def byte_level(row: dict[str, Any] | None = None) -> Tokenizer:
    """Byte-level BPE of a few merges."""
    row = row or PRE[0]
    vocab = {text: number for number, text in enumerate([*BYTES, "he", "ll", "hell", "Ġt"])}
    whole = row.get("whole", False)
    made = Tokenizer(
        models.BPE(vocab=vocab, merges=[("h", "e"), ("l", "l"), ("he", "ll"), ("Ġ", "t")], ignore_merges=whole)
    )
    made.pre_tokenizer, made.decoder = steps(row), decoders.ByteLevel()
    made.add_special_tokens(["<s>", "</s>"])
    made.add_tokens(["two▁words", "<unused7>"])
    return made


def document(made: Tokenizer, **changed: Any) -> dict[str, Any]:
    return json.loads(made.to_str()) | changed


@pytest.mark.parametrize("row", PRE, ids=[row["name"] for row in PRE])
def test_the_patterns_of_a_tokenizer_have_a_name(row: dict[str, Any]) -> None:
    made = document(byte_level(row))
    assert pre_name(made) == row["name"]
    made["model"]["ignore_merges"] = not row.get("whole", False)
    if row["name"] not in ("llama-bpe", "dbrx", "gpt-4o"):
        with pytest.raises(UnsupportedError, match=r"llama\.cpp has no known name"):
            pre_name(made)


@pytest.mark.parametrize(
    "pre",
    [
        None,
        pre_tokenizers.Split(Regex(r"\s+"), "isolated"),
        pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(PRE[0]["steps"][0][6:]), "removed"), pre_tokenizers.ByteLevel()]
        ),
        pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.ByteLevel()]),
        pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel()]),
    ],
)
def test_other_patterns_have_none_unless_one_is_given(pre: Any, tmp_path: Path) -> None:
    made = byte_level()
    made.pre_tokenizer = pre or pre_tokenizers.ByteLevel(use_regex=False)
    saved(tmp_path, tokenizer_json=made.to_str())
    with pytest.raises(UnsupportedError) as refused:
        found_in(tmp_path, 270)
    if b"ByteLevel" in (tmp_path / "tokenizer.json").read_bytes().split(b"pre_tokenizer")[1].split(b"decoder")[0]:
        assert refused.value.hint is not None
        assert "--meta tokenizer.ggml.pre=NAME" in refused.value.hint
        assert found_in(tmp_path, 270, "viking")[0]["pre"] == "viking"


SCRIPTS = ((0, 0x3000), (0xAC00, 0xB000), (0xE000, 0x10000), (0x1D400, 0x1D500), (0x1F300, 0x1F700))
"""A fifth of them is tried: of all characters in each pattern that would take a minute."""


@pytest.mark.parametrize("row", [row for row in PRE if row.get("gapless")], ids=lambda row: row["name"])
def test_keeping_the_matches_of_a_pattern_without_gaps_is_cutting_by_it(row: dict[str, Any], tmp_path: Path) -> None:
    """As the tokenizers of DBRX and GPT-4o say it: what is removed is nothing."""
    regex = Regex(row["steps"][0].removeprefix("split "))
    text = "".join(f"{chr(code)}a1 \n{chr(code)}" for first, last in SCRIPTS for code in range(first, last, 5))
    matches = pre_tokenizers.Split(regex, "removed", invert=True)
    assert matches.pre_tokenize_str(text) == pre_tokenizers.Split(regex, "isolated").pre_tokenize_str(text)
    made = byte_level(row)
    made.pre_tokenizer = pre_tokenizers.Sequence([matches, pre_tokenizers.ByteLevel(False, use_regex=False)])
    assert found_in(saved(tmp_path, tokenizer_json=made.to_str()), 264)[0]["pre"] == row["name"]


def test_keeping_the_matches_of_a_pattern_with_gaps_has_no_name() -> None:
    made = byte_level()
    pattern = next(row["steps"][0] for row in PRE if row["name"] == "bloom").removeprefix("split ")
    matches = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([matches, pre_tokenizers.ByteLevel(False, use_regex=False)])
    with pytest.raises(UnsupportedError, match="matches  "):
        pre_name(document(made))


def test_byte_level_bpe(tmp_path: Path) -> None:
    made = byte_level()
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": "{{ x }}"}
    saved(tmp_path, tokenizer_json=made.to_str(), tokenizer_config_json=config)
    found, documents = found_in(tmp_path, 266)
    assert (found["model"], found["pre"]) == ("gpt2", "llama-bpe")
    assert found["tokens"][256:] == [
        "he",
        "ll",
        "hell",
        "Ġt",
        "<s>",
        "</s>",
        "two words",
        "<unused7>",
        "[PAD264]",
        "[PAD265]",
    ]
    assert found["token_type"][255:] == [1, 1, 1, 1, 1, 3, 3, 4, 3, 5, 5]
    assert found["merges"] == ["h e", "l l", "he ll", "Ġ t"]
    assert (found["bos_token_id"], found["eos_token_id"], found["add_bos_token"]) == (260, 261, False)
    assert found["chat_template"] == "{{ x }}"
    assert not documents.findings


def test_texts_that_are_normalized_first_are_reported(tmp_path: Path) -> None:
    made = byte_level()
    made.normalizer = normalizers.NFC()
    saved(tmp_path, tokenizer_json=made.to_str())
    _, documents = found_in(tmp_path, 264)
    assert [(one.code, "(NFC)" in one.message) for one in documents.findings] == [("normalizer", True)]


def test_tokens_past_the_rows_are_left_out_and_reported(tmp_path: Path) -> None:
    saved(tmp_path, tokenizer_json=byte_level().to_str())
    found, documents = found_in(tmp_path, 262)
    assert found["tokens"][-1] == "</s>"
    assert [one.message[:24] for one in documents.findings] == ["2 tokens are left out: t"]


def pieces(**changed: Any) -> dict[str, Any]:
    """What becomes of a model of SentencePiece's."""
    vocab = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a", "▁ab", "ab"]
    made = Tokenizer(
        models.BPE(
            vocab={text: number for number, text in enumerate(vocab)},
            merges=[("▁", "a"), ("a", "b"), ("▁a", "b"), ("▁", "ab")],
            unk_token="<unk>", byte_fallback=True, fuse_unk=True,
        )
    )  # fmt: skip
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return document(made, **changed)


def test_pieces_get_scores_in_the_order_of_their_merges(tmp_path: Path) -> None:
    saved(tmp_path, tokenizer_json=pieces(), tokenizer_config_json={"bos_token": "<s>", "unk_token": "<unk>"})
    found, _ = found_in(tmp_path, 265)
    assert (found["model"], found["pre"], found["add_space_prefix"]) == ("llama", "default", True)
    assert found["scores"][-6:] == [0, 0, 0, 0, -2, -1]
    assert (found["tokens"][3], found["token_type"][:5]) == ("<0x00>", [3, 3, 3, 6, 6])
    assert (found["add_bos_token"], found["add_eos_token"], found["unknown_token_id"]) == (True, False, 0)


def test_merges_that_make_an_added_token_need_no_score(tmp_path: Path) -> None:
    """Gemma's line feeds: they are found before anything is merged, so that several ways to make them do not matter."""
    vocab = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "a", "b", "aa", "aaa", "ab"]
    made = Tokenizer(
        models.BPE(
            vocab={text: number for number, text in enumerate(vocab)},
            merges=[("a", "a"), ("a", "aa"), ("a", "b"), ("aa", "a")], unk_token="<unk>", byte_fallback=True,
        )
    )  # fmt: skip
    saved(tmp_path, tokenizer_json=made.to_str())
    with pytest.raises(UnsupportedError, match="merges that make 'aaa' are not side by side"):
        found_in(tmp_path, 262)
    made.add_tokens(["aa", "aaa"])
    found, _ = found_in(saved(tmp_path, tokenizer_json=made.to_str()), 262)
    assert (found["token_type"][-3:], found["scores"][-3:]) == ([4, 4, 1], [-1000.0, -1000.0, 0.0])


@pytest.mark.parametrize(
    ("pre", "normalizer", "prefix"),
    [
        ({"type": "Metaspace", "prepend_scheme": "never"}, None, False),
        ({"type": "Metaspace", "prepend_scheme": "first"}, None, True),
        ({"type": "Metaspace", "add_prefix_space": False}, None, False),
        (None, {"type": "Replace"}, False),
    ],
)
def test_whether_a_space_is_put_before(pre: Any, normalizer: Any, *, prefix: bool, tmp_path: Path) -> None:
    saved(tmp_path, tokenizer_json=pieces(pre_tokenizer=pre, normalizer=normalizer))
    assert found_in(tmp_path, 265)[0]["add_space_prefix"] is prefix


def test_words(tmp_path: Path) -> None:
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "un", "##able", "##"]
    made = Tokenizer(models.WordPiece(vocab={text: number for number, text in enumerate(vocab)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    made.add_special_tokens(vocab[:5])
    config = {
        role: vocab[i] for i, role in enumerate(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"))
    }
    found, _ = found_in(saved(tmp_path / "a", tokenizer_json=made.to_str(), tokenizer_config_json=config), 8)
    assert found["tokens"] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "▁un", "able", ""]
    assert found["token_type"] == [3, 3, 3, 3, 3, 1, 1, 1]
    assert {key: found[key] for key in ("bos_token_id", "eos_token_id", "seperator_token_id", "mask_token_id")} == {
        "bos_token_id": 2, "eos_token_id": 3, "seperator_token_id": 3, "mask_token_id": 4,
    }  # fmt: skip
    assert (found["normalizer.lowercase"], found["normalizer.strip_accents"]) == (True, True)
    listed, _ = found_in(saved(tmp_path / "b", vocab_txt="\n".join(vocab) + "\n"), 8)
    assert {key: found[key] for key in listed} == {**listed}


def test_unigrams(tmp_path: Path) -> None:
    charsmap = base64.b64encode(b"map").decode()
    made = document(Tokenizer(models.Unigram([("<unk>", 0.0), ("▁a", -1.5)], unk_id=0, byte_fallback=False)))
    made["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": charsmap}
    found, _ = found_in(saved(tmp_path, tokenizer_json=made), 2)
    assert (found["model"], found["scores"], found["token_type"]) == ("t5", [0.0, -1.5], [2, 1])
    assert (found["precompiled_charsmap"], found["remove_extra_whitespaces"]) == (b"map", True)


@pytest.mark.parametrize("bytes_", [True, False])
def test_unigrams_that_fall_back_to_bytes(*, bytes_: bool, tmp_path: Path) -> None:
    """llama.cpp's do not, and have <unk> elsewhere unless a file says where it is."""
    made = Tokenizer(models.Unigram([("▁a", -1.5), ("<0x0A>", -3.0), ("<unk>", 0.0)], unk_id=2, byte_fallback=bytes_))
    found, documents = found_in(saved(tmp_path, tokenizer_json=made.to_str()), 3)
    assert found["token_type"] == [1, 6 if bytes_ else 1, 2]
    assert found["unknown_token_id"] == 2
    assert [one.code for one in documents.findings] == ["byte-fallback"] * bytes_


def test_the_pieces_of_t5_are_found_by_their_own_name(tmp_path: Path) -> None:
    saved(tmp_path, tokenizer_model=GOLDEN)
    wanted, _ = found_in(tmp_path, 8)
    (tmp_path / "tokenizer.model").rename(tmp_path / "spiece.model")
    assert found_in(tmp_path, 8)[0] == wanted


def test_lists_of_older_tokenizers(tmp_path: Path) -> None:
    vocab = {text: number for number, text in enumerate([*BYTES, "he", "<|endoftext|>"])}
    config = {"tokenizer_class": "GPT2TokenizerFast", "eos_token": "<|endoftext|>"}
    saved(tmp_path, vocab_json=vocab, merges_txt="#version: 0.2\nh e\n", tokenizer_config_json=config)
    found, _ = found_in(tmp_path, 258)
    assert (found["pre"], found["merges"], found["eos_token_id"], found["token_type"][-1]) == ("gpt-2", ["h e"], 257, 3)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UnsupportedError, match="do not say how a tokenizer cuts texts"):
        found_in(tmp_path, 258)


TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A"}}],
}
BEHIND = {
    "type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "<s>", "type_id": 0}}],
}


@pytest.mark.parametrize(
    ("config", "post"),
    [
        ({"bos_token": "<s>", "eos_token": "</s>"}, TEMPLATE),
        ({"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": False}, TEMPLATE),
        ({"bos_token": "<s>", "eos_token": {"content": "</s>"}}, {"type": "Sequence", "processors": [TEMPLATE]}),
        ({"eos_token": "</s>", "unk_token": "<s>", "add_eos_token": True}, None),
        ({"eos_token": "</s>"}, BEHIND),
        ({"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>"},
         {"type": "RobertaProcessing", "cls": ["<s>", 260], "sep": ["</s>", 261]}),
    ],
)  # fmt: skip
def test_special_tokens_are_those_that_the_gguf_package_finds(
    config: dict[str, Any], post: Any, tmp_path: Path
) -> None:
    model: dict[str, Any] = {"pad_token_id": 261, "unk_token_id": 260}
    made = document(byte_level(), post_processor=post)
    saved(tmp_path, tokenizer_json=made, tokenizer_config_json=config, config_json=model)
    theirs = SpecialVocab(tmp_path, n_vocab=264)
    words = {"unk": "unknown", "pad": "padding", "sep": "seperator"}
    wanted = {f"{words.get(k, k)}_token_id": number for k, number in theirs.special_token_ids.items() if k != "cls"}
    found, _ = found_in(tmp_path, 264, **model)
    assert {key: one for key, one in found.items() if key.endswith("token_id")} == wanted
    for role, adds in theirs.add_special_token.items():
        assert role == "sep" or found[f"add_{role}_token"] is adds


def test_what_other_documents_say_of_special_tokens(tmp_path: Path) -> None:
    said = {"bos_token": "<s>", "pad_token": "no"}
    saved(tmp_path, tokenizer_json=byte_level().to_str(), special_tokens_map_json=said)
    saved(tmp_path, generation_config_json={"eos_token_id": [261, 260]})
    found, documents = found_in(tmp_path, 264)
    assert (found["bos_token_id"], found["eos_token_id"]) == (260, 261)
    assert "padding_token_id" not in found
    assert [one.message for one in documents.findings] == [
        "pad_token 'no' is not a token of the vocabulary, and left out"
    ]


def test_chat_templates(tmp_path: Path) -> None:
    several = [{"name": "default", "template": "a"}, {"name": "tool-use", "template": "b"}]
    saved(tmp_path, tokenizer_json=byte_level().to_str(), tokenizer_config_json={"chat_template": several})
    found, _ = found_in(tmp_path, 264)
    assert (found["chat_template"], found["chat_template.tool_use"], found["chat_templates"]) == (
        "a",
        "b",
        ["tool_use"],
    )
    (tmp_path / "chat_template.jinja").write_text("c")
    assert found_in(tmp_path, 264)[0]["chat_template"] == "c"


def changed(path: str, value: Any, made: dict[str, Any] | None = None) -> dict[str, Any]:
    whole = node = document(byte_level()) if made is None else made
    *keys, last = path.split(".")
    for key in keys:
        node = node[key]
    node[last] = value
    return whole


@pytest.mark.parametrize(
    ("documents", "error", "words"),
    [
        ({}, EditError, "there is no tokenizer beside the weights"),
        ({"tokenizer_json": "{"}, CorruptFileError, "tokenizer.json is not JSON"),
        ({"tokenizer_json": "[" * 100_000}, CorruptFileError, "tokenizer.json is not JSON"),
        ({"tokenizer_json": b"\xff{}"}, CorruptFileError, "tokenizer.json is not JSON"),
        ({"tokenizer_json": "[]"}, CorruptFileError, "tokenizer.json is not a JSON object"),
        ({"tokenizer_json": '{"a": 1, "a": 2}'}, CorruptFileError, "comes twice"),
        ({"tokenizer_json": "{}"}, UnsupportedError, "no tokenizer of type 'None'"),
        ({"tokenizer_json": {"model": {"type": "WordLevel"}}}, UnsupportedError, "no tokenizer of type 'WordLevel'"),
        ({"tokenizer_json": changed("model.vocab", [])}, CorruptFileError, "has no vocabulary"),
        ({"tokenizer_json": changed("model.vocab", {"a": 1, "b": 1})}, CorruptFileError, "two tokens have one id"),
        ({"tokenizer_json": changed("model.vocab", {"a": -1})}, CorruptFileError, "'-1' is not an id of a token"),
        ({"tokenizer_json": changed("model.vocab", {"a": 1 << 40})}, CorruptFileError, "is not an id of a token"),
        ({"tokenizer_json": changed("model.vocab", {"\ud800": 0})}, CorruptFileError, "token 0 is not text"),
        ({"tokenizer_json": changed("model.merges", [])}, CorruptFileError, "has no merges"),
        ({"tokenizer_json": changed("model.merges", ["a b c"])}, CorruptFileError, "'a b c' is not a merge"),
        ({"tokenizer_json": changed("model.merges", [["a", 1]])}, CorruptFileError, "is not a merge"),
        ({"tokenizer_json": changed("model.merges", [["\ud800", "h"]])}, CorruptFileError, "a merge is not text"),
        ({"tokenizer_json": changed("model.vocab", {"\udce9": 0})}, CorruptFileError, "token 0 is not text"),
        ({"tokenizer_json": changed("added_tokens", [{"id": 9, "content": "he"}])}, CorruptFileError,
         "tokens 9 and 256 are both 'he'"),
        ({"tokenizer_json": changed("added_tokens", {})}, None, ""),
        ({"tokenizer_json": changed("added_tokens", 5)}, CorruptFileError, "added_tokens is not a list"),
        ({"tokenizer_json": changed("added_tokens", [{"id": 3}])}, CorruptFileError, "has no content"),
        ({"tokenizer_json": changed("added_tokens", [3])}, CorruptFileError, "has no content"),
        ({"tokenizer_json": pieces(model={"type": "BPE", "vocab": {"a": 0}, "merges": ["a a"]})}, UnsupportedError,
         "neither of bytes nor falls back"),
        ({"tokenizer_json": changed("model.merges", ["▁ a", "a b", "▁ ab", "▁a b", "▁ a"], pieces())}, UnsupportedError,
         "the merges that make '▁a' are not side by side"),
        ({"tokenizer_json": {"model": {"type": "Unigram", "vocab": [["a", "x"]]}}}, CorruptFileError, "and no number"),
        ({"tokenizer_json": {"model": {"type": "Unigram", "vocab": [["a"]]}}}, CorruptFileError, "not a piece"),
        ({"tokenizer_json": {"model": {"type": "Unigram", "vocab": [["a", 1]]},
                             "normalizer": {"precompiled_charsmap": "*"}}}, CorruptFileError, "is not base64"),
        ({"tokenizer_json": {"model": {"type": "Unigram", "vocab": [["a", 1]]},
                             "normalizer": {"type": "Sequence", "normalizers": 5}}}, None, ""),
        ({"tokenizer_json": {"model": {"type": "WordPiece", "vocab": {"a": 0}, "continuing_subword_prefix": "@"}}},
         UnsupportedError, "no other mark than ##"),
        ({"tokenizer_json": {"model": {"type": "WordPiece", "vocab": {}}}}, CorruptFileError, "has no vocabulary"),
        ({"tokenizer_json": {"model": {"type": "WordPiece", "vocab": ["a"]}}}, CorruptFileError, "has no vocabulary"),
        ({"tokenizer_json": {"model": {"type": "Unigram", "vocab": []}}}, CorruptFileError, "has no vocabulary"),
        ({"tokenizer_json": {"model": {"type": "Unigram", "vocab": {"a": 1}}}}, CorruptFileError, "has no vocabulary"),
        ({"tokenizer_model": b"\x0a\x01"}, CorruptFileError, "is not a SentencePiece model"),
        ({"tokenizer_model": b"\x0a\x03\x0a\x01a\x12\x02\x18\x03"}, UnsupportedError, "tokenizer.model is of type 3"),
        ({"vocab_txt": b"\xff"}, CorruptFileError, "vocab.txt is not UTF-8"),
        ({"tokenizer_json": document(byte_level()),
          "tokenizer_config_json": {"added_tokens_decoder": {"x": {"content": "a"}}}}, CorruptFileError, "'x' is no"),
        ({"tokenizer_json": document(byte_level()), "tokenizer_config_json": {"chat_template": 5}}, CorruptFileError,
         "chat_template is not text"),
        ({"tokenizer_json": document(byte_level()), "tokenizer_config_json": {"chat_template": "\udce9"}},
         CorruptFileError, "chat_template is not text"),
        ({"tokenizer_json": document(byte_level()),
          "tokenizer_config_json": {"chat_template": [{"name": "a", "template": "b"}] * 101}}, LimitError,
         "has 101 chat templates"),
        ({"tokenizer_json": document(byte_level()), "tokenizer_config_json": {"chat_template": [{}]}}, CorruptFileError,
         "a chat_template has no name"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_reported(
    documents: dict[str, Any], error: type[Exception] | None, words: str, tmp_path: Path
) -> None:
    saved(tmp_path, **documents)
    if error is None:
        found_in(tmp_path, 264)
        return
    with pytest.raises(error, match=words) as refused:
        found_in(tmp_path, 264)
    assert isinstance(refused.value, CkptconvError)
    assert refused.value.hint


@pytest.mark.parametrize(("limit", "value"), [("MAX_TOKENIZER", 100), ("MAX_NODES", 100)])
def test_documents_that_are_too_large_are_not_read(
    limit: str, value: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, tokenizer_json=byte_level().to_str())
    monkeypatch.setattr(documents_module, limit, value)
    with pytest.raises(LimitError):
        found_in(tmp_path, 264)


def test_rows_that_only_a_shape_claims(tmp_path: Path) -> None:
    saved(tmp_path, tokenizer_json=byte_level().to_str())
    with pytest.raises(LimitError, match="the embeddings have 100,000,000,000 rows"):
        found_in(tmp_path, 10**11)
