"""What llama.cpp has for pictures or sounds beside a language model of transformers' (mmproj), as a GGUF: the metadata
for tensors that have llama.cpp's names already.

    general.architecture   clip
    general.type           mmproj
    clip.projector_type    how the tower's outputs become embeddings of the language model, which names the rest
    clip.vision.…          the tower's sizes, and how pictures are normed before it; clip.audio.… of one for sounds

Pixtral's has a vector of the language model's besides, the embedding of the token that ends a row of patches, which the
tokenizer's documents number.

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
from ckptconv.formats.gguf.hub.config import number
from ckptconv.formats.gguf.hub.documents import Documents, bad
from ckptconv.formats.gguf.hub.entries import check_types, file_type, folder_name, settled
from ckptconv.formats.gguf.hub.model import Made
from ckptconv.formats.gguf.hub.pictures import PICTURE_UNSAID, picture_entries
from ckptconv.formats.gguf.hub.sounds import SOUND_UNSAID, sound_entries
from ckptconv.formats.gguf.hub.tower import Said
from ckptconv.formats.gguf.hub.tower_sizes import check_sizes
from ckptconv.formats.gguf.hub.vocabulary import TOKENIZER, TOKENIZER_CONFIG

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.formats.gguf.values import Typed
    from ckptconv.io.folder import Folder

_PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")
_NORMED = {"clip.vision.image_mean": "image_mean", "clip.vision.image_std": "image_std"}
_COLOURS = 3
_LISTED = ((TOKENIZER, "added_tokens", "id", "content"), ("tekken.json", "special_tokens", "rank", "token_str"))
_DIGITS = 10


def mmproj_of(folder: Folder, tensors: Mapping[str, LazyTensor], said: Mapping[str, MetaNode]) -> Made:
    """The file for pictures or sounds of a model in a folder whose tensors are translated; `said` are entries that a
    person gives, which outrank these, and get their types. Reads the documents beside the weights. Raises
    CkptconvError, with the path of what is wrong.
    """
    documents = Documents(folder)
    document = documents.config("to-mmproj")
    with located(folder.path):
        return _made(documents, document, tensors, said)


def _made(
    documents: Documents, document: Mapping[str, Any], tensors: Mapping[str, LazyTensor], said: Mapping[str, MetaNode]
) -> Made:
    config = dict[object, object](document.items())
    projector = projector_of(config)
    check_types("to-mmproj", tensors)
    preprocessor = _preprocessor(documents)
    pictures = projector.config == VISION
    for name, token in projector.row.items():
        tensors = _with_row(tensors, name, _number_of(documents, token))
    infos = infos_of(tensors)
    found = Said.of(projector, document, preprocessor, PICTURE_UNSAID if pictures else SOUND_UNSAID)
    own = picture_entries(found) if pictures else sound_entries(found)
    kind = "vision" if pictures else "audio"
    own[f"clip.{kind}.projection_dim"] = ("uint32", check_sizes(projector, own, infos, found))
    fixed = fixed_types(infos, config, None)
    entries: dict[str, Typed] = {
        ARCHITECTURE_KEY: ("string", CLIP),
        "general.type": ("string", "mmproj"),
        "general.name": ("string", folder_name(documents) or projector.name),
        **own,
        **(_normed(preprocessor, said) if pictures else {}),
        **file_type(tensor for name, tensor in tensors.items() if name not in fixed),
        VERSION_KEY: ("uint32", QUANTIZATION_VERSION),
    }
    typed = settled(entries, said, dict.fromkeys(_NORMED, "float32[]") if pictures else {})
    _check_colours(typed)
    return Made(dict(tensors), typed, tuple(documents.findings), dict.fromkeys(projector.row, EMBEDDINGS))


def _preprocessor(documents: Documents) -> dict[str, Any]:
    """What is said of pictures: in a document of their own, or in that of all that the model takes."""
    found: dict[str, Any] = {}
    for name in _PREPROCESSORS:
        document = documents.object(name) or {}
        inner = document.get("image_processor")
        found |= document | (inner if isinstance(inner, dict) else {})
    return found


def _normed(preprocessor: Mapping[str, Any], said: Mapping[str, MetaNode]) -> dict[str, Typed]:
    """The mean and the deviation of each colour. Raises CorruptFileError, EditError where there is none."""
    found: dict[str, Typed] = {}
    for key, name in _NORMED.items():
        values = preprocessor.get(name)
        if values is None and key not in said:
            raise EditError(
                f"--translate to-mmproj: no {' or '.join(_PREPROCESSORS)} beside the weights says an {name}",
                hint=f"copy them there, or --meta '{key}=[0.5, 0.5, 0.5]' says it",
            )
        if values is None:
            continue
        if not isinstance(values, list) or len(values) != _COLOURS:
            raise bad(f"{_PREPROCESSORS[0]}: {name} is {str(values)[:40]!r}, and no {_COLOURS} numbers")
        found[key] = ("float32[]", [number(one, f"{_PREPROCESSORS[0]}: {name}") for one in values])
    return found


def _check_colours(entries: Mapping[str, Typed]) -> None:
    """Raise EditError where a person says another number of colours: llama.cpp reads three without counting them."""
    for key in _NORMED:
        _, value = entries.get(key, ("float32[]", [0.0] * _COLOURS))
        if not isinstance(value, list) or len(value) != _COLOURS:
            raise EditError(
                f"--meta {key}: {str(value)[:40]} are not {_COLOURS} numbers, one for each colour",
                hint=f"--meta '{key}=[0.5, 0.5, 0.5]'",
            )


def _number_of(documents: Documents, token: str) -> int:
    """The number of a token that was added. Raises CorruptFileError, EditError."""
    for key, text in _added(documents):
        if text == token:
            if type(key) is not int or key < 0:
                raise bad(f"the tokenizer's number of {token} is {str(key)[:40]!r}")
            return key
    raise EditError(
        f"--translate to-mmproj: no tokenizer beside the weights has a token {token}, whose embedding llama.cpp needs",
        hint=f"copy the model's {TOKENIZER} and {TOKENIZER_CONFIG} there, or Mistral's tekken.json",
    )


def _added(documents: Documents) -> Iterator[tuple[object, object]]:
    """Tokens beside those of the vocabulary, by their numbers, as each tokenizer's document has them."""
    decoder = (documents.object(TOKENIZER_CONFIG) or {}).get("added_tokens_decoder")
    for key, one in decoder.items() if isinstance(decoder, dict) else ():
        if isinstance(one, dict):
            yield int(key) if key.isdecimal() and len(key) < _DIGITS else key, one.get("content")
    for name, listed, key, text in _LISTED:
        tokens = (documents.object(name) or {}).get(listed)
        for one in tokens if isinstance(tokens, list) else ():
            if isinstance(one, dict):
                yield one.get(key), one.get(text)


def _with_row(tensors: Mapping[str, LazyTensor], name: str, number: int) -> dict[str, LazyTensor]:
    """The tensors with one row of the embeddings instead of all. Raises EditError where there is none."""
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
