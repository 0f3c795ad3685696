"""The metadata of a GGUF with a vision or audio tower (mmproj), which llama.cpp loads beside a language model.

    general.architecture   clip
    general.type           mmproj
    clip.projector_type    the projector from the tower's outputs to the language model's embeddings
    clip.vision.…          the tower's sizes, and how images are normalized before it; clip.audio.… for an audio tower

Pixtral's file also needs one row of the language model's embeddings: that of the token that ends a row of patches. The
tokenizer's files state its id.

Sources: llama.cpp's conversion/base.py (MmprojModel), conversion/llava.py, tools/mtmd/clip.cpp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptconv.core.edit import Edit
from ckptconv.core.tensor import infos_of
from ckptconv.edits.apply import apply
from ckptconv.edits.dialects.gguf_projectors import CLIP, VISION, projector_of
from ckptconv.edits.dialects.gguf_table import EMBEDDINGS
from ckptconv.edits.dialects.to_mmproj import fixed_types
from ckptconv.errors import EditError, located
from ckptconv.formats.gguf.filetype import ARCHITECTURE_KEY, QUANTIZATION_VERSION, VERSION_KEY
from ckptconv.formats.gguf.hub.audio import AUDIO_DEFAULTS, audio_entries
from ckptconv.formats.gguf.hub.config import number
from ckptconv.formats.gguf.hub.documents import Documents, bad
from ckptconv.formats.gguf.hub.entries import apply_overrides, check_dtypes, file_type_entry, folder_name
from ckptconv.formats.gguf.hub.model import Contents
from ckptconv.formats.gguf.hub.tower import TowerConfigs
from ckptconv.formats.gguf.hub.tower_sizes import check_sizes
from ckptconv.formats.gguf.hub.vision import VISION_DEFAULTS, vision_entries
from ckptconv.formats.gguf.hub.vocabulary import TOKENIZER, TOKENIZER_CONFIG

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.formats.gguf.values import Typed
    from ckptconv.io.folder import Folder

_PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")
_NORMALIZATION = {"clip.vision.image_mean": "image_mean", "clip.vision.image_std": "image_std"}
_CHANNELS = 3
_TOKEN_LISTS = ((TOKENIZER, "added_tokens", "id", "content"), ("tekken.json", "special_tokens", "rank", "token_str"))
"""Files with lists of added tokens: the list's key, and in it the keys of a token's id and text."""
_MAX_DIGITS = 10


def mmproj_contents(folder: Folder, tensors: Mapping[str, LazyTensor], overrides: Mapping[str, MetaNode]) -> Contents:
    """What is written to the GGUF of a model's tower. Reads the files beside the weights.

    tensors:   the tower's and projector's, under llama.cpp's names.
    overrides: entries that the user sets.

    Raises CkptconvError, with the path of the file that is wrong.
    """
    documents = Documents(folder)
    document = documents.config("to-mmproj")
    with located(folder.path):
        return _contents(documents, document, tensors, overrides)


def _contents(
    documents: Documents, document: Mapping[str, Any], tensors: Mapping[str, LazyTensor],
    overrides: Mapping[str, MetaNode],
) -> Contents:  # fmt: skip
    config = dict[object, object](document.items())
    projector = projector_of(config)
    check_dtypes("to-mmproj", tensors)
    preprocessor = _preprocessor(documents)
    is_vision = projector.config == VISION
    for name, token in projector.row.items():
        tensors = _with_embedding_row(tensors, name, _added_token_id(documents, token))
    infos = infos_of(tensors)
    configs = TowerConfigs.of(projector, document, preprocessor, VISION_DEFAULTS if is_vision else AUDIO_DEFAULTS)
    tower = vision_entries(configs) if is_vision else audio_entries(configs)
    kind = "vision" if is_vision else "audio"
    tower[f"clip.{kind}.projection_dim"] = ("uint32", check_sizes(projector, tower, infos, configs))
    fixed = fixed_types(infos, config, None)
    entries: dict[str, Typed] = {
        ARCHITECTURE_KEY: ("string", CLIP),
        "general.type": ("string", "mmproj"),
        "general.name": ("string", folder_name(documents) or projector.name),
        **tower,
        **(_normalization(preprocessor, overrides) if is_vision else {}),
        **file_type_entry(tensor for name, tensor in tensors.items() if name not in fixed),
        VERSION_KEY: ("uint32", QUANTIZATION_VERSION),
    }
    more_types = dict.fromkeys(_NORMALIZATION, "float32[]") if is_vision else {}
    final = apply_overrides(entries, overrides, more_types)
    _check_channels(final)
    return Contents(dict(tensors), final, tuple(documents.findings), dict.fromkeys(projector.row, EMBEDDINGS))


def _preprocessor(documents: Documents) -> dict[str, Any]:
    """How images are preprocessed; newer models state it in processor_config.json, under ``image_processor``."""
    merged: dict[str, Any] = {}
    for name in _PREPROCESSORS:
        document = documents.object(name) or {}
        inner = document.get("image_processor")
        merged |= document | (inner if isinstance(inner, dict) else {})
    return merged


def _normalization(preprocessor: Mapping[str, Any], overrides: Mapping[str, MetaNode]) -> dict[str, Typed]:
    """The mean and standard deviation of each channel. Raises CorruptFileError, EditError if they are missing."""
    entries: dict[str, Typed] = {}
    for key, name in _NORMALIZATION.items():
        values = preprocessor.get(name)
        if values is None and key not in overrides:
            raise EditError(
                f"--translate to-mmproj: no {' or '.join(_PREPROCESSORS)} beside the weights says an {name}",
                hint=f"copy them there, or --meta '{key}=[0.5, 0.5, 0.5]' says it",
            )
        if values is None:
            continue
        if not isinstance(values, list) or len(values) != _CHANNELS:
            raise bad(f"{_PREPROCESSORS[0]}: {name} is {str(values)[:40]!r}, and no {_CHANNELS} numbers")
        entries[key] = ("float32[]", [number(value, f"{_PREPROCESSORS[0]}: {name}") for value in values])
    return entries


def _check_channels(entries: Mapping[str, Typed]) -> None:
    """Raise EditError if the user sets another number of channels: llama.cpp reads three without counting them."""
    for key in _NORMALIZATION:
        _, value = entries.get(key, ("float32[]", [0.0] * _CHANNELS))
        if not isinstance(value, list) or len(value) != _CHANNELS:
            raise EditError(
                f"--meta {key}: {str(value)[:40]} are not {_CHANNELS} numbers, one for each colour",
                hint=f"--meta '{key}=[0.5, 0.5, 0.5]'",
            )


def _added_token_id(documents: Documents, token: str) -> int:
    """The id of an added token. Raises CorruptFileError, EditError if no file has the token."""
    for token_id, text in _added_tokens(documents):
        if text == token:
            if type(token_id) is not int or token_id < 0:
                raise bad(f"the tokenizer's number of {token} is {str(token_id)[:40]!r}")
            return token_id
    raise EditError(
        f"--translate to-mmproj: no tokenizer beside the weights has a token {token}, whose embedding llama.cpp needs",
        hint=f"copy the model's {TOKENIZER} and {TOKENIZER_CONFIG} there, or Mistral's tekken.json",
    )


def _added_tokens(documents: Documents) -> Iterator[tuple[object, object]]:
    """The ids and texts of added tokens, unchecked, from each of the tokenizer's files."""
    decoder = (documents.object(TOKENIZER_CONFIG) or {}).get("added_tokens_decoder")
    for key, token in decoder.items() if isinstance(decoder, dict) else ():
        if isinstance(token, dict):
            yield int(key) if key.isdecimal() and len(key) < _MAX_DIGITS else key, token.get("content")
    for name, list_key, id_key, text_key in _TOKEN_LISTS:
        tokens = (documents.object(name) or {}).get(list_key)
        for token in tokens if isinstance(tokens, list) else ():
            if isinstance(token, dict):
                yield token.get(id_key), token.get(text_key)


def _with_embedding_row(tensors: Mapping[str, LazyTensor], name: str, number: int) -> dict[str, LazyTensor]:
    """The tensors, with row `number` of the embeddings, as F32 under `name`, in place of the embeddings.

    Raises EditError if there is no such row.
    """
    embeddings = tensors.get(EMBEDDINGS)
    shape = embeddings.info.shape if embeddings is not None else ()
    if embeddings is None or len(shape) != 2 or number >= shape[0]:
        what = "there are none" if embeddings is None else f"they are {list(shape)}"
        raise EditError(
            f"--translate to-mmproj: row {number} of the language model's embeddings belongs in the file, and {what}",
            hint="convert the whole model's folder",
        )
    parts = {"before": number, name: 1, "after": shape[0] - number - 1}
    sizes = {part: size for part, size in parts.items() if size}
    edits = [
        Edit("split", (EMBEDDINGS,), tuple(sizes), {"axis": 0, "sizes": [*sizes.values()]}),
        Edit("reshape", (name,), (name,), {"shape": [shape[1]]}),
        Edit("cast", (name,), (name,), {"from": embeddings.info.dtype.name, "dtype": "F32"}),
    ]
    if len(sizes) == 1:
        edits[0] = Edit("rename", (EMBEDDINGS,), (name,))
    row = apply({EMBEDDINGS: embeddings}, edits)[name]
    return {**{key: tensor for key, tensor in tensors.items() if key != EMBEDDINGS}, name: row}
