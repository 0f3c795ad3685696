"""The metadata of a transformers model as a GGUF, from its config.json and tokenizer.

Its tensors were translated to llama.cpp's names before (`ckptconv.edits.dialects.to_gguf`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ckptconv.arch.statements import CONFIG
from ckptconv.core.tensor import infos_of
from ckptconv.edits.dialects.gguf_config import architecture, written_as
from ckptconv.edits.dialects.gguf_table import EMBEDDINGS, OUTPUT, architectures
from ckptconv.errors import located
from ckptconv.formats.gguf.filetype import ARCHITECTURE_KEY, QUANTIZATION_VERSION, VERSION_KEY
from ckptconv.formats.gguf.hub.config import Config, unsupported
from ckptconv.formats.gguf.hub.documents import Documents
from ckptconv.formats.gguf.hub.encoder import pooling, token_types
from ckptconv.formats.gguf.hub.entries import apply_overrides, check_dtypes, file_type_entry, folder_name
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
"""float32 entries that the user may set even if the configuration does not state them."""
POOLING_FOLDER = "1_Pooling"
"""Where sentence-transformers says how token vectors become one sentence vector."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What is written to a GGUF.

    tensors: under llama.cpp's names, with those that it expects and transformers does not have.
    entries: the metadata, with types.
    rows:    for each tensor that is one row of another, the name of that one.
    """

    tensors: dict[str, LazyTensor]
    entries: dict[str, Typed]
    findings: tuple[Finding, ...]
    rows: Mapping[str, str] = field(default_factory=dict)


def model_contents(folder: Folder, tensors: Mapping[str, LazyTensor], overrides: Mapping[str, MetaNode]) -> Contents:
    """What is written to the GGUF of a model. Reads the files beside the weights.

    folder:    the model's.
    tensors:   the model's, under llama.cpp's names.
    overrides: entries that the user sets.

    Raises CkptconvError, with the path of the file that is wrong.
    """
    documents = Documents(folder)
    document = documents.config("to-gguf")
    with located(folder.path):
        return _contents(documents, Config(document), tensors, overrides)


def _contents(
    documents: Documents, config: Config, tensors: Mapping[str, LazyTensor], overrides: Mapping[str, MetaNode]
) -> Contents:
    arch = architecture(config.values)
    check_dtypes("to-gguf", tensors)
    tensors = _with_output(arch, tensors)
    infos = infos_of(tensors)
    written_arch = written_as(arch, config.values)
    entries: dict[str, Typed] = {
        ARCHITECTURE_KEY: ("string", written_arch),
        "general.type": ("string", "model"),
        "general.name": ("string", folder_name(documents) or arch),
        **hyperparameters(arch, config, infos, documents.findings),
        **pooling(arch, _pooling_document(documents)),
        **token_types(arch, config),
        **file_type_entry(tensors.values()),
        VERSION_KEY: ("uint32", QUANTIZATION_VERSION),
    }
    if overrides.get(MODEL_KEY) not in NO_TOKENIZER:
        pre = overrides.get(PRE_KEY)
        rows = infos[EMBEDDINGS].shape[0]
        entries |= tokenizer(documents, config, rows, pre if isinstance(pre, str) else None)
    final = apply_overrides(entries, overrides, {f"{written_arch}.{key}": "float32" for key in _FLOATS})
    return Contents(rope_tensors(arch, config) | dict(tensors), final, tuple(documents.findings))


def _with_output(arch: str, tensors: Mapping[str, LazyTensor]) -> Mapping[str, LazyTensor]:
    """The tensors with an output matrix if llama.cpp expects one: a model that ties it has only the embeddings."""
    expected = architectures()[arch].output
    if expected == "shared" and OUTPUT in tensors:
        raise unsupported(arch, "output of its own", "", "it is the embeddings")
    if expected == "own" and OUTPUT not in tensors and EMBEDDINGS in tensors:
        return {**tensors, OUTPUT: replace(tensors[EMBEDDINGS], alias=None, placement=None)}
    return tensors


def _pooling_document(documents: Documents) -> Mapping[str, object] | None:
    """sentence-transformers' config.json for the pooling, in the folder where it usually lies; None without one."""
    if POOLING_FOLDER not in documents.folder.folders:
        return None
    return Documents(documents.folder.inside(POOLING_FOLDER)).object(CONFIG)
