"""Sizes in config.json and the tensors beside it: what llama.cpp would not load is refused before it is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import TensorInfo
from ckptconv.edits.dialects.gguf_config import architecture
from ckptconv.errors import EditError
from ckptconv.formats.gguf.hub.hyperparameters import hyperparameters
from tests.formats.gguf.hub.test_hyperparameters import CASES, config, infos

if TYPE_CHECKING:
    from collections.abc import Mapping


def checked(case: str, changed: Mapping[str, tuple[int, ...] | None], **said: Any) -> None:
    """Of the tensors that llama.cpp's converter wrote, with others in place of some."""
    made, tensors = config(case, **said), infos(CASES[case]["tensors"])
    for name, shape in changed.items():
        assert name in tensors
        del tensors[name]
        if shape is not None:
            tensors[name] = TensorInfo.of(DType.F32, shape)
    hyperparameters(architecture(made.values), made, tensors, [])


@pytest.mark.parametrize(
    ("case", "changed", "said", "words"),
    [
        ("llama", {"blk.1.ffn_gate.weight": None}, {}, "layer 1 has no ffn_gate.weight, which others have"),
        ("bert", {"blk.0.attn_q.bias": None}, {}, "layer 0 has no attn_q.bias"),
        ("qwen3moe", {"blk.0.ffn_up_exps.weight": None}, {}, "layer 0 has no ffn_up_exps.weight"),
        ("llama", {"output_norm.weight": None}, {}, "there is no output_norm.weight"),
        ("llama", {"token_embd.weight": None}, {}, "there are no embeddings"),
        ("llama", {}, {"vocab_size": 299}, r"says a vocabulary of 299, and the embeddings are \[300, 64\]"),
        ("llama", {}, {"intermediate_size": 7}, "by config.json ffn_up has 7 rows, and its tensor is"),
        ("llama", {}, {"head_dim": 99}, r"attn_q has [0-9]+ rows"),
        ("llama", {}, {"num_key_value_heads": 1}, r"attn_k has [0-9]+ rows"),
    ],
)
def test_sizes_that_are_not_those_of_the_tensors_are_refused(
    case: str, changed: dict[str, tuple[int, ...] | None], said: dict[str, Any], words: str
) -> None:
    with pytest.raises(EditError, match=words) as refused:
        checked(case, changed, **said)
    assert refused.value.hint


@pytest.mark.parametrize("case", CASES)
def test_those_of_llama_cpps_own_files_fit(case: str) -> None:
    checked(case, {})
