"""The metadata of a PEFT LoRA adapter as a GGUF, which llama.cpp loads beside a model (``--lora``).

    general.architecture     the base model's; has to equal that of the model it is loaded beside
    general.type             adapter
    adapter.type             lora
    adapter.lora.alpha       B·A is multiplied by alpha / rank; the rank is the tensors'
    general.base_model.…     the base that the adapter's configuration names, if it is a name on the hub

There is a single alpha for all modules. PEFT's scale is alpha / rank, or alpha / √rank with rsLoRA; for the latter
alpha · √rank is written. If modules need different alphas, the adapter is refused.

Sources: llama.cpp's convert_lora_to_gguf.py (which ignores rsLoRA and alpha patterns), src/llama-adapter.h
(`get_scale`), ggml's docs/gguf.md (`general.base_model`).
"""

from __future__ import annotations

import re
from array import array
from typing import TYPE_CHECKING

from ckptconv.edits.adapters.llama_cpp import ALPHA_KEY, BASE_KEY, FACTORS, KIND, KIND_KEY
from ckptconv.edits.adapters.names import plain_module
from ckptconv.edits.adapters.to_llama_cpp import MERGE
from ckptconv.edits.dialects.gguf_config import GROUPS, HEADS, architecture, whole_number, written_as
from ckptconv.edits.dialects.gguf_table import ADAPTER, TYPE_KEY, architectures
from ckptconv.errors import EditError, UnsupportedError
from ckptconv.formats.gguf.filetype import ARCHITECTURE_KEY, QUANTIZATION_VERSION, VERSION_KEY
from ckptconv.formats.gguf.hub.config import Config
from ckptconv.formats.gguf.hub.documents import bad
from ckptconv.formats.gguf.hub.entries import apply_overrides, check_dtypes
from ckptconv.formats.gguf.hub.model import Contents
from ckptconv.formats.gguf.values import F32_LIMIT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.edits.adapters.adapter import Adapter
    from ckptconv.formats.gguf.values import Typed

_BASES_KEY = "general.base_model.count"
_HUBS = re.compile(r"[\w-][\w.-]*(?:/[\w-][\w.-]*)?")
"""A name on the hub. PEFT may also state a folder of the machine on which the adapter was trained."""


def adapter_contents(
    adapter: Adapter, document: Mapping[str, Any], tensors: Mapping[str, LazyTensor], overrides: Mapping[str, MetaNode]
) -> Contents:
    """What is written to the GGUF of an adapter.

    document:  the base model's config.json.
    tensors:   the adapter's, under llama.cpp's names.
    overrides: entries that the user sets.

    Raises CkptconvError.
    """
    config = Config(document)
    arch = architecture(config.values)
    check_dtypes("to-gguf", tensors)
    _check_sizes(arch, config, tensors)
    base = adapter.config("").base
    entries: dict[str, Typed] = {
        ARCHITECTURE_KEY: ("string", written_as(arch, config.values)),
        TYPE_KEY: ("string", ADAPTER),
        KIND_KEY: ("string", KIND),
        "general.name": ("string", adapter.label),
        **({_BASES_KEY: ("uint32", 1), BASE_KEY: ("string", base)} if _HUBS.fullmatch(base) else {}),
        ALPHA_KEY: ("float32", _alpha(adapter)),
        VERSION_KEY: ("uint32", QUANTIZATION_VERSION),
    }
    return Contents(dict(tensors), apply_overrides(entries, overrides), ())


def _alpha(adapter: Adapter) -> float:
    """The alpha of all modules. Raises UnsupportedError if they differ or are 0, CorruptFileError out of range."""
    modules: dict[float, str] = {}
    for name in adapter.parts.modules:
        module = adapter.module(name)
        alpha = module.factor(module.check()) * module.rank
        if abs(alpha) >= F32_LIMIT:
            raise bad(f"the adapter's configuration says an alpha of {alpha:g}")
        modules.setdefault(array("f", [alpha])[0], plain_module(name))
    if len(modules) > 1:
        alphas = " and ".join(f"{alpha:g} ({name})" for alpha, name in list(modules.items())[:2])
        raise UnsupportedError(
            f"--translate to-gguf: scales take an alpha of {alphas}, and llama.cpp has one for all modules", hint=MERGE
        )
    if not modules or 0.0 in modules:  # llama.cpp takes an alpha of 0 as a scale of 1
        raise UnsupportedError("--translate to-gguf: the adapter's alpha is 0, which changes nothing", hint=MERGE)
    return next(iter(modules))


def _check_sizes(arch: str, config: Config, tensors: Mapping[str, LazyTensor]) -> None:
    """Raise EditError if q or k shows that the configuration belongs to another base model."""
    if not config.has(*HEADS):
        return
    heads, head_width = config.heads, config.head_width
    kv_heads = whole_number(config.values, GROUPS) or heads
    gates = 2 if architectures()[arch].delta else 1  # q is stored with a gate for each head
    for part, rows in (("attn_q.weight", gates * heads * head_width), ("attn_k.weight", kv_heads * head_width)):
        for factor, axis, size in zip(FACTORS, (1, 0), (config.width, rows), strict=True):
            for name, tensor in tensors.items():
                if name.endswith(f".{part}.{factor}") and tensor.info.shape[axis : axis + 1] != (size,):
                    raise EditError(
                        f"--translate to-gguf: by the base's configuration {part.partition('.')[0]} has {rows:,} rows "
                        f"and {config.width:,} columns, and {name} is {list(tensor.info.shape)}",
                        hint="the configuration may be another model's",
                    )
