"""The files of a transformers folder that a GGUF's metadata gives, beside the weights."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ckptconv.arch.statements import CONFIG
from ckptconv.core.report import Finding
from ckptconv.errors import CorruptFileError, LimitError, UnsupportedError
from ckptconv.formats.gguf.hub.vocabulary import TOKENIZER
from ckptconv.formats.gguf.to_hub.config import restore_config
from ckptconv.formats.gguf.to_hub.pooling import pooling_files
from ckptconv.formats.gguf.to_hub.said import TOKENIZER as TOKENIZER_KEYS
from ckptconv.formats.gguf.to_hub.said import Said
from ckptconv.formats.gguf.to_hub.special import ends
from ckptconv.formats.gguf.to_hub.tokenizer import restore_tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.tensor import LazyTensor

GENERATION = "generation_config.json"
_ROLES = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


@dataclass(frozen=True, slots=True)
class RestoredFiles:
    """The files' contents by name, and what of the GGUF they say.

    documents: the JSON of each file; texts as they are.
    keys:      the metadata that they say, and that need not be kept beside them.
    tensors:   the tensors that they say, which transformers computes of them.
    outside:   what other tensors' names have, and the class that is named has not.
    """

    documents: Mapping[str, Any]
    keys: frozenset[str]
    tensors: tuple[str, ...]
    outside: str
    findings: tuple[Finding, ...]

    def renamed(self, name: str) -> str:
        """The name that the class has for a tensor that is translated."""
        return name.replace(self.outside, "", 1) if self.outside else name

    def with_config(self, entries: Mapping[str, Any]) -> RestoredFiles:
        """The files, with more entries in the configuration."""
        return replace(self, documents={**self.documents, CONFIG: {**self.documents[CONFIG], **entries}})

    def contents(self, dtype: str | None) -> dict[str, bytes]:
        """The files. `dtype`: the configuration's name for the type of the weights; None if it has none."""
        return {name: _text(document, dtype if name == CONFIG else None) for name, document in self.documents.items()}


def restore_files(
    metadata: Mapping[object, object], tensors: Mapping[str, LazyTensor], *, whole: bool = False
) -> RestoredFiles:
    """The files of the model in a GGUF, whose tensors have llama.cpp's names.

    whole: also a tokenizer that cannot be restored is an error, and not a finding.

    Raises CorruptFileError, LimitError, UnsupportedError.
    """
    said = Said(metadata, tensors)
    config = restore_config(said)
    documents: dict[str, Any] = {CONFIG: config.values}
    findings = [*config.findings]
    if "tie_word_embeddings" in config.values and (generation := _generation(said, config.values)):
        documents[GENERATION] = generation
    documents |= pooling_files(said, findings)
    try:
        tokenizer = restore_tokenizer(said)
    except (CorruptFileError, LimitError, UnsupportedError) as error:
        if whole:
            raise
        findings.append(Finding("no-tokenizer", "warning", "", f"no {TOKENIZER} is written: {error.args[0]}"))
        tokenizer = None
    keys = config.keys | said.used
    if tokenizer is None:
        keys = frozenset(key for key in keys if not key.startswith(TOKENIZER_KEYS))
    else:
        documents |= tokenizer.documents
        findings += tokenizer.findings
    return RestoredFiles(documents, keys, config.tensors, config.outside, tuple(findings))


def _generation(said: Said, config: Mapping[str, Any]) -> dict[str, Any]:
    """generation_config.json: the tokens at which a text begins and ends."""
    found = {key: config[key] for key in _ROLES if config.get(key) is not None}
    stops = ends(said)
    return found | ({"eos_token_id": stops} if len(stops) > 1 else {})


def _text(document: Any, dtype: str | None) -> bytes:
    if isinstance(document, str):
        return document.encode()
    if dtype is not None:
        document = {**document, "torch_dtype": dtype}
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()
