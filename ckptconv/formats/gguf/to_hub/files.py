"""The files of a transformers folder that a GGUF's metadata gives, beside the weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptconv.arch.statements import CONFIG
from ckptconv.formats.gguf.to_hub.config import restore_config

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.report import Finding
    from ckptconv.core.tensor import LazyTensor

GENERATION = "generation_config.json"
_ROLES = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


@dataclass(frozen=True, slots=True)
class RestoredFiles:
    """The files' contents by name, and what of the GGUF they say.

    documents: the JSON of each file; texts as they are.
    keys:      the metadata that they say, and that need not be kept beside them.
    tensors:   the tensors that they say, which transformers computes of them.
    """

    documents: Mapping[str, Any]
    keys: frozenset[str]
    tensors: tuple[str, ...]
    findings: tuple[Finding, ...]

    def contents(self, dtype: str | None) -> dict[str, bytes]:
        """The files. `dtype`: the configuration's name for the type of the weights; None if it has none."""
        return {name: _text(document, dtype if name == CONFIG else None) for name, document in self.documents.items()}


def restore_files(metadata: Mapping[object, object], tensors: Mapping[str, LazyTensor]) -> RestoredFiles:
    """The files of the model in a GGUF, whose tensors have llama.cpp's names. Raises what `restore_config` raises."""
    config = restore_config(metadata, tensors)
    documents: dict[str, Any] = {CONFIG: config.values}
    if generation := _generation(config.values):
        documents[GENERATION] = generation
    return RestoredFiles(documents, config.keys, config.tensors, config.findings)


def _generation(config: Mapping[str, Any]) -> dict[str, Any]:
    """generation_config.json: where a text begins and ends, for a model that generates any."""
    if "tie_word_embeddings" not in config:
        return {}
    return {key: config[key] for key in _ROLES if config.get(key) is not None}


def _text(document: Any, dtype: str | None) -> bytes:
    if isinstance(document, str):
        return document.encode()
    if dtype is not None:
        document = {**document, "torch_dtype": dtype}
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()
