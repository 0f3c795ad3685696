"""Adapters of llama.cpp: a GGUF that it loads beside a model (``--lora``).

    W.lora_a, W.lora_b           W + alpha / r · lora_b · lora_a, r × inputs and outputs × r; W is the weight's name
    token_embd.weight.lora_a     tokens × r, for the embedding; its lora_b is width × r
    for a stack of experts       E × r × inputs and E × outputs × r

    general.type = adapter, adapter.type = lora, adapter.lora.alpha    0 where the product is added as it is

The tensors are given the names that PEFT uses for the same, and for experts those of mlx-lm.

Source: llama.cpp's src/llama-adapter.cpp, src/llama-adapter.h (`get_scale`), src/llama-graph.cpp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.edits.adapters.config import Config
from ckptconv.edits.adapters.patterns import finite
from ckptconv.edits.ggml.unpack import unpacked
from ckptconv.edits.views import permuted
from ckptconv.errors import CorruptFileError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.tensor import LazyTensor

KIND_KEY, KIND = "adapter.type", "lora"
ALPHA_KEY = "adapter.lora.alpha"
BASE_KEY = "general.base_model.0.name"
_TOKENS_KEY = "adapter.alora.invocation_tokens"

FACTORS = ("lora_a", "lora_b")
"""llama.cpp's names for A and B."""

_PAIRS = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight"}
_EMBEDDING = {"lora_a": "lora_embedding_A", "lora_b": "lora_embedding_B"}
_TOKENS = "token_embd"


def config(metadata: Mapping[object, object]) -> Config:
    """The configuration that the metadata amounts to. Raises CorruptFileError, UnsupportedError."""
    if metadata.get(KIND_KEY) != KIND:
        kind = str(metadata.get(KIND_KEY))[:80]
        raise UnsupportedError(f"adapters of llama.cpp's type {kind!r} are not merged", hint="those of lora are")
    alpha = finite(metadata.get(ALPHA_KEY, 0.0))
    if alpha is None:
        raise CorruptFileError(f"{ALPHA_KEY} is not a number that is finite")
    route = "aLoRA, which counts from a token on" if _TOKENS_KEY in metadata else ""
    return Config(llama_cpp=True, alpha=alpha, factor=None if alpha else 1.0, route=route)


def renamed(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The tensors as floats, under names that other modules know; tensors that are not factors keep theirs.

    Raises CorruptFileError, UnsupportedError.
    """
    result: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        new, plain = _renamed(name, tensor)
        if new in result:
            raise CorruptFileError(f"{name!r} is there twice, as {new!r} too")
        result[new] = plain
    return result


def _renamed(name: str, tensor: LazyTensor) -> tuple[str, LazyTensor]:
    weight, _, factor = name.rpartition(".")
    module = weight.removesuffix(".weight")
    rank = len(tensor.info.shape)
    if factor not in FACTORS or module == weight:
        return name, tensor
    if module == _TOKENS and rank == 2:
        factor_tensor = _transposed(name, tensor) if factor == FACTORS[0] else _as_floats(tensor)
        return f"{module}.{_EMBEDDING[factor]}", factor_tensor
    return f"{module}.{factor if rank == 3 else _PAIRS[factor]}", _as_floats(tensor)


def _as_floats(tensor: LazyTensor) -> LazyTensor:
    return unpacked(tensor) if tensor.info.dtype.kind == "block" else tensor


def _transposed(name: str, tensor: LazyTensor) -> LazyTensor:
    view = permuted(tensor, (1, 0))
    if view is None:
        raise UnsupportedError(
            f"{name!r} is of {tensor.info.dtype}, and an embedding's blocks are not turned",
            hint="ckptconv convert ADAPTER PLAIN.gguf --dtype F32 makes floats of them",
        )
    return view
