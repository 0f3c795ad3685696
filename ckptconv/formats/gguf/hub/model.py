"""A whole model of transformers' as a GGUF: the metadata for tensors that have llama.cpp's names already."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ckptconv.arch.statements import CONFIG
from ckptconv.core.tensor import infos_of
from ckptconv.edits.dialects.gguf_config import architecture, written_as
from ckptconv.edits.dialects.gguf_table import EMBEDDINGS, OUTPUT, architectures
from ckptconv.errors import located
from ckptconv.formats.gguf.filetype import ARCHITECTURE_KEY, QUANTIZATION_VERSION, VERSION_KEY
from ckptconv.formats.gguf.hub.config import Config, unlike
from ckptconv.formats.gguf.hub.documents import Documents
from ckptconv.formats.gguf.hub.encoder import pooling, token_types
from ckptconv.formats.gguf.hub.entries import check_types, file_type, folder_name, settled
from ckptconv.formats.gguf.hub.hyperparameters import hyperparameters
from ckptconv.formats.gguf.hub.pre import KEY as PRE_KEY
from ckptconv.formats.gguf.hub.rope import rope_tensors
from ckptconv.formats.gguf.hub.tokenizer import tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.report import Finding
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.formats.gguf.values import Typed
    from ckptconv.io.folder import Folder

NO_TOKENIZER = ("none", "no_vocab")
MODEL_KEY = "tokenizer.ggml.model"
_FLOATS = (
    "attention.clamp_kqv", "attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon", "attention.scale",
    "attn_logit_softcapping", "embedding_scale", "final_logit_softcapping", "logit_scale", "residual_scale",
    "rope.freq_base", "rope.freq_base_swa", "rope.scaling.attn_factor", "rope.scaling.factor",
    "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow",
    "rope.scaling.yarn_ext_factor",
)  # fmt: skip
"""What llama.cpp takes as a float32, also where the configuration does not say it."""
_POOLING = "Pooling"


@dataclass(frozen=True, slots=True)
class Made:
    """What is to be written: tensors, those that llama.cpp wants besides among them, and entries with their types.
    `rows` are tensors that are a row of another, by its name.
    """

    tensors: dict[str, LazyTensor]
    entries: dict[str, Typed]
    findings: tuple[Finding, ...]
    rows: Mapping[str, str] = field(default_factory=dict)


def made_of(folder: Folder, tensors: Mapping[str, LazyTensor], said: Mapping[str, MetaNode]) -> Made:
    """The file for a model in a folder whose tensors are translated; `said` are entries that a person gives, which
    outrank these, and get their types. Reads the documents beside the weights. Raises CkptconvError, with the path of
    what is wrong.
    """
    documents = Documents(folder)
    document = documents.config("to-gguf")
    with located(folder.path):
        return _made(documents, Config(document), tensors, said)


def _made(
    documents: Documents, config: Config, tensors: Mapping[str, LazyTensor], said: Mapping[str, MetaNode]
) -> Made:
    arch = architecture(config.values)
    check_types("to-gguf", tensors)
    tensors = _with_output(arch, tensors)
    infos = infos_of(tensors)
    written = written_as(arch, config.values)
    entries: dict[str, Typed] = {
        ARCHITECTURE_KEY: ("string", written),
        "general.type": ("string", "model"),
        "general.name": ("string", folder_name(documents) or arch),
        **hyperparameters(arch, config, infos, documents.findings),
        **pooling(arch, _pooling(documents)),
        **token_types(arch, config),
        **file_type(tensors.values()),
        VERSION_KEY: ("uint32", QUANTIZATION_VERSION),
    }
    if said.get(MODEL_KEY) not in NO_TOKENIZER:
        pre = said.get(PRE_KEY)
        rows = infos[EMBEDDINGS].shape[0]
        entries |= tokenizer(documents, config, rows, pre if isinstance(pre, str) else None)
    typed = settled(entries, said, dict.fromkeys((f"{written}.{key}" for key in _FLOATS), "float32"))
    return Made(rope_tensors(arch, config) | dict(tensors), typed, tuple(documents.findings))


def _with_output(arch: str, tensors: Mapping[str, LazyTensor]) -> Mapping[str, LazyTensor]:
    """The output as llama.cpp asks for it: of its own, or none beside the embeddings."""
    how = architectures()[arch].output
    if how == "shared" and OUTPUT in tensors:
        raise unlike(arch, "output of its own", "", "it is the embeddings")
    if how == "own" and OUTPUT not in tensors and EMBEDDINGS in tensors:
        return {**tensors, OUTPUT: replace(tensors[EMBEDDINGS], alias=None, placement=None)}
    return tensors


def _pooling(documents: Documents) -> Mapping[str, object] | None:
    """The document of sentence-transformers' that says how vectors are pooled, by the name that it usually has."""
    folder = f"1_{_POOLING}"
    return Documents(documents.folder.inside(folder)).object(CONFIG) if folder in documents.folder.folders else None
