"""An adapter of PEFT's as a GGUF that llama.cpp loads beside a model (``--lora``): the metadata for tensors that have
llama.cpp's names already.

    general.architecture     the base's, which has to be that of the model beside which it is loaded
    general.type             adapter
    adapter.type             lora
    adapter.lora.alpha       by which B·A is multiplied, over the rank that its tensors have
    general.base_model.…     what the adapter's configuration names as its base, if that is a name on the hub

There is one alpha for all modules. A module's scale is alpha over its rank, or over the root of it (rsLoRA), of which
the file has alpha times that root; where modules need several, the file cannot say them, and the adapter is refused.

Sources: llama.cpp's convert_lora_to_gguf.py (which passes rsLoRA and patterns of alphas over), src/llama-adapter.h
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
from ckptconv.formats.gguf.hub.entries import check_types, settled
from ckptconv.formats.gguf.hub.model import Made
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
"""A name on the hub; what else PEFT has there is a folder on the machine on which it was trained."""


def adapter_of(
    adapter: Adapter, document: Mapping[str, Any], tensors: Mapping[str, LazyTensor], said: Mapping[str, MetaNode]
) -> Made:
    """The file for an adapter whose tensors are translated, and whose base has the configuration `document`; `said` are
    entries that a person gives, which outrank these. Raises CkptconvError.
    """
    config = Config(document)
    arch = architecture(config.values)
    check_types("to-gguf", tensors)
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
    return Made(dict(tensors), settled(entries, said), ())


def _alpha(adapter: Adapter) -> float:
    """The one alpha. Raises CorruptFileError, UnsupportedError where there is no such."""
    found: dict[float, str] = {}
    for name in adapter.parts.modules:
        module = adapter.module(name)
        alpha = module.factor(module.check()) * module.rank
        if abs(alpha) >= F32_LIMIT:
            raise bad(f"the adapter's configuration says an alpha of {alpha:g}")
        found.setdefault(array("f", [alpha])[0], plain_module(name))
    if len(found) > 1:
        alphas = " and ".join(f"{alpha:g} ({name})" for alpha, name in list(found.items())[:2])
        raise UnsupportedError(
            f"--translate to-gguf: scales take an alpha of {alphas}, and llama.cpp has one for all modules", hint=MERGE
        )
    if not found or 0.0 in found:  # llama.cpp takes 0 for 1 over 1
        raise UnsupportedError("--translate to-gguf: the adapter's alpha is 0, which changes nothing", hint=MERGE)
    return next(iter(found))


def _check_sizes(arch: str, config: Config, tensors: Mapping[str, LazyTensor]) -> None:
    """Raise EditError where the configuration is another base's, as far as attention tells."""
    if not config.has(*HEADS):
        return
    heads, wide = config.heads, config.head_width
    groups = whole_number(config.values, GROUPS) or heads
    gates = 2 if architectures()[arch].delta else 1
    for part, rows in (("attn_q.weight", gates * heads * wide), ("attn_k.weight", groups * wide)):
        for end, axis, wanted in zip(FACTORS, (1, 0), (config.width, rows), strict=True):
            for name, tensor in tensors.items():
                if name.endswith(f".{part}.{end}") and tensor.info.shape[axis : axis + 1] != (wanted,):
                    raise EditError(
                        f"--translate to-gguf: by the base's configuration {part.partition('.')[0]} has {rows:,} rows "
                        f"and {config.width:,} columns, and {name} is {list(tensor.info.shape)}",
                        hint="the configuration may be another model's",
                    )
