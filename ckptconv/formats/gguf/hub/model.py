"""A whole model of transformers' as a GGUF: the metadata for tensors that have llama.cpp's names already."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.core.record import readable
from ckptconv.edits.dialects.gguf_config import architecture, written_as
from ckptconv.edits.dialects.gguf_table import architectures
from ckptconv.errors import CkptconvError, EditError, UnsupportedError
from ckptconv.formats.gguf.filetype import (
    ARCHITECTURE_KEY,
    FILE_TYPE_KEY,
    FILE_TYPES,
    QUANTIZATION_VERSION,
    VERSION_KEY,
    most,
)
from ckptconv.formats.gguf.hub.config import CONFIG, Config, unlike
from ckptconv.formats.gguf.hub.documents import Documents
from ckptconv.formats.gguf.hub.encoder import pooling, token_types
from ckptconv.formats.gguf.hub.hyperparameters import hyperparameters
from ckptconv.formats.gguf.hub.pre import KEY as PRE_KEY
from ckptconv.formats.gguf.hub.rope import rope_tensors
from ckptconv.formats.gguf.hub.sizes import EMBEDDINGS
from ckptconv.formats.gguf.hub.tokenizer import tokenizer
from ckptconv.formats.gguf.values import F32_LIMIT, fits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.report import Finding
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.formats.gguf.values import Typed
    from ckptconv.io.folder import Folder

NO_TOKENIZER = ("none", "no_vocab")
MODEL_KEY = "tokenizer.ggml.model"
_OUTPUT = "output.weight"
_FLOATS = (
    "attention.clamp_kqv", "attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon", "attention.scale",
    "attn_logit_softcapping", "embedding_scale", "final_logit_softcapping", "logit_scale", "residual_scale",
    "rope.freq_base", "rope.freq_base_swa", "rope.scaling.attn_factor", "rope.scaling.factor",
    "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow",
    "rope.scaling.yarn_ext_factor",
)  # fmt: skip
"""What llama.cpp takes as a float32, also where the configuration does not say it."""
_COMPUTED = (DType.F16, DType.BF16, DType.F32)
_POOLING = "Pooling"


@dataclass(frozen=True, slots=True)
class Made:
    """What is to be written: tensors, those that llama.cpp wants besides among them, and entries with their types."""

    tensors: dict[str, LazyTensor]
    entries: dict[str, Typed]
    findings: tuple[Finding, ...]


def made_of(folder: Folder, tensors: Mapping[str, LazyTensor], said: Mapping[str, MetaNode]) -> Made:
    """The file for a model in a folder whose tensors are translated; `said` are entries that a person gives, which
    outrank these, and get their types. Reads the documents beside the weights. Raises CkptconvError, with the path of
    what is wrong.
    """
    documents = Documents(folder)
    document = documents.object(CONFIG)
    if document is None:
        raise EditError(f"--translate to-gguf: there is no {CONFIG} beside the weights", path=folder.path)
    try:
        return _made(documents, Config(document), tensors, said)
    except CkptconvError as error:
        raise error.at(folder.path) from error.__cause__


def _made(
    documents: Documents, config: Config, tensors: Mapping[str, LazyTensor], said: Mapping[str, MetaNode]
) -> Made:
    arch = architecture(config.values)
    _check_types(tensors)
    tensors = _with_output(arch, tensors)
    infos = {name: tensor.info for name, tensor in tensors.items()}
    written = written_as(arch, config.values)
    entries: dict[str, Typed] = {
        ARCHITECTURE_KEY: ("string", written),
        "general.type": ("string", "model"),
        "general.name": ("string", _name(documents) or arch),
        **hyperparameters(arch, config, infos, documents.findings),
        **pooling(arch, _pooling(documents)),
        **token_types(arch, config),
        **_types(tensors),
        VERSION_KEY: ("uint32", QUANTIZATION_VERSION),
    }
    if said.get(MODEL_KEY) not in NO_TOKENIZER:
        pre = said.get(PRE_KEY)
        rows = infos[EMBEDDINGS].shape[0]
        entries |= tokenizer(documents, config, rows, pre if isinstance(pre, str) else None)
    types = dict.fromkeys((f"{written}.{key}" for key in _FLOATS), "float32") | {
        k: one[0] for k, one in entries.items()
    }
    entries |= {key: (types[key], _asked(key, types[key], value)) for key, value in said.items() if key in types}
    typed: dict[str, Typed] = {key: (kind, _rounded(kind, value)) for key, (kind, value) in entries.items()}
    return Made(rope_tensors(arch, config) | dict(tensors), typed, tuple(documents.findings))


def _asked(key: str, kind: str, value: MetaNode) -> MetaNode:
    """What a person says, as the type with which llama.cpp asks for it: another one it does not load.
    Raises EditError where it cannot be that.
    """
    if kind == "float32" and type(value) is int and abs(value) < F32_LIMIT:
        value = float(value)
    elif kind == "string" and type(value) in (int, float, bool):
        value = readable(value)
    if not fits(kind, value):
        raise EditError(
            f"--meta {key}: {str(value)[:40]!r} is no {kind}, which llama.cpp takes there",
            hint="without it, the files beside the weights say it",
        )
    return value


def _name(documents: Documents) -> str:
    """The folder's; a name on disk may be no UTF-8."""
    return documents.folder.path.resolve().name.encode("utf-8", "replace").decode("utf-8")


def _rounded(kind: str, value: MetaNode) -> MetaNode:
    """The value as a float32 has it, so that the entry says all of it."""
    if kind == "float32[]" and isinstance(value, list):
        return [*array("f", value)]
    return array("f", [value])[0] if kind == "float32" and isinstance(value, float) else value


def _types(tensors: Mapping[str, LazyTensor]) -> dict[str, Typed]:
    """What the file says of its tensors' types."""
    kind = most(tensors.values())
    number = FILE_TYPES.get(kind.name) if kind is not None else None
    return {} if number is None else {FILE_TYPE_KEY: ("uint32", number)}


def _check_types(tensors: Mapping[str, LazyTensor]) -> None:
    """Raise UnsupportedError for numbers that llama.cpp does not compute with."""
    for name, tensor in tensors.items():
        dtype = tensor.info.dtype
        if dtype.block == 1 and dtype not in _COMPUTED:
            raise UnsupportedError(
                f"--translate to-gguf: llama.cpp does not compute with {dtype}, which {name!r} would be",
                hint=f"--dtype {', '.join(map(str, _COMPUTED))}, or blocks as Q8_0",
            )


def _with_output(arch: str, tensors: Mapping[str, LazyTensor]) -> Mapping[str, LazyTensor]:
    """The output as llama.cpp asks for it: of its own, or none beside the embeddings."""
    how = architectures()[arch].output
    if how == "shared" and _OUTPUT in tensors:
        raise unlike(arch, "output of its own", "", "it is the embeddings")
    if how == "own" and _OUTPUT not in tensors and EMBEDDINGS in tensors:
        return {**tensors, _OUTPUT: replace(tensors[EMBEDDINGS], alias=None, placement=None)}
    return tensors


def _pooling(documents: Documents) -> Mapping[str, object] | None:
    """The document of sentence-transformers' that says how vectors are pooled, by the name that it usually has."""
    folder = f"1_{_POOLING}"
    return Documents(documents.folder.inside(folder)).object(CONFIG) if folder in documents.folder.folders else None
