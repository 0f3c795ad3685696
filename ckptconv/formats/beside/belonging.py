"""Which files of a model's folder belong to the model besides its weights, and are copied along with them.

They are files with the suffixes in `TAKEN` (configuration, tokenizer, chat templates), and subfolders that the model's
library would read:

    modules.json                    sentence-transformers (`formats.sentence_transformers`): each module has a folder
                                    with its configuration and, for a Dense layer, a router or another encoder, its
                                    weights. A folder that does not exist is a module that has neither
    model_index.json                diffusers: {"unet": [library, class], …}, a folder for each component
    additional_chat_templates/      transformers: NAME.jinja, each a template

Beside SetFit's ``config_setfit.json``, its classifier is in ``model_head.pkl``; without it SetFit makes one at random.

Weights in module folders are copied too, because no checkpoint is read from there. Code is not copied, nor the files in
`LEFT`, nor other folders, such as the same weights as ONNX.

Sources: the `VOCAB_FILES_NAMES` of transformers' tokenizers; diffusers, pipelines/pipeline_utils.py;
transformers/utils/hub.py; setfit/modeling.py (`MODEL_HEAD_NAME`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

from ckptconv.core import strict_json
from ckptconv.errors import COPY_AGAIN, located
from ckptconv.formats.sentence_transformers import MODULES, module_folders
from ckptconv.io.limits import MAX_CONFIG

if TYPE_CHECKING:
    from collections.abc import Collection

    from ckptconv.formats.beside.files import Listing
    from ckptconv.formats.beside.places import Place
    from ckptconv.io.folder import Folder

PIPELINE, TEMPLATES = "model_index.json", "additional_chat_templates"

TAKEN = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".spm", ".codes")

LEFT = ("index.json", "trainer_state.json", "adapter_config.json")
"""The index of shards, a training run's state, an adapter's configuration: not part of the model that is written."""

HEADS = {"config_setfit.json": "model_head.pkl"}
"""Pickles beside the weights that are part of the model, by the configuration file that shows it."""

SAFE, PICKLED = ".safetensors", ".bin"
"""Suffixes of a module's weights. No library loads the second kind if the first is beside it."""


@dataclass(frozen=True, slots=True)
class Part:
    """A subfolder that is part of the model, and the paths of all files below it.

    files:  those that are copied.
    others: those of a sentence-transformers module that are not.
    broken: links that lead nowhere or out of the model's folder, and folders that cannot be listed.
    """

    path: str
    files: tuple[str, ...]
    others: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()


def is_taken(name: str, left: tuple[str, ...] = LEFT) -> bool:
    """Whether a file beside the weights with this name or path is copied along."""
    return name == PIPELINE or (name.endswith(TAKEN) and not name.endswith(left))


def heads_in(names: Collection[str]) -> tuple[str, ...]:
    """The files among `names` that are part of the model by `HEADS`."""
    return tuple(head for config, head in HEADS.items() if config in names and head in names)


def parts_of(place: Place) -> list[Part]:
    """The subfolders that the model's library reads, as far as they exist.

    Raises CorruptFileError if the file that lists them is malformed or names a folder outside this one, and LimitError.
    """
    home = place.folder("")
    parts = [_component(place, TEMPLATES)] if TEMPLATES in home.folders else []
    if PIPELINE in home.names:
        index = _load_json(place, PIPELINE)
        parts += [_component(place, name) for name in home.folders if isinstance(index, dict) and name in index]
    if MODULES in home.names:
        with located(place.path / MODULES):
            paths = dict.fromkeys(module_folders(_load_json(place, MODULES)))
        parts += [_module(place, path) for path in paths if _has_folder(home, path)]
    return parts


def _component(place: Place, path: str) -> Part:
    """A folder of templates, or of a diffusers component, whose weights are read as the checkpoint."""
    if _leads_out(place, path):
        return Part(path, (), broken=(path,))
    listing = place.below(path).listing()
    files = tuple(f"{path}/{file}" for file in listing.paths if is_taken(file))
    return Part(path, files, broken=_broken_links(place, path, listing))


def _module(place: Place, path: str) -> Part:
    """A folder of a sentence-transformers module, weights included."""
    if _leads_out(place, path):
        return Part(path, (), broken=(path,))
    listing = place.below(path).listing()
    safe = {_parent(file) for file in listing.paths if file.endswith(SAFE)}
    files: list[str] = []
    others: list[str] = []
    for file in listing.paths:
        if file.endswith((PICKLED, f"{PICKLED}.index.json")) and _parent(file) in safe:
            continue  # a second copy of the weights
        taken = is_taken(file) or file.endswith((SAFE, PICKLED, f"{SAFE}.index.json", f"{PICKLED}.index.json"))
        (files if taken else others).append(f"{path}/{file}")
    return Part(path, tuple(files), tuple(others), _broken_links(place, path, listing))


def _leads_out(place: Place, path: str) -> bool:
    """Whether a folder is a link to somewhere outside the model's folder."""
    return not PurePath(os.path.realpath(place.path / path)).is_relative_to(os.path.realpath(place.path))


def _broken_links(place: Place, path: str, listing: Listing) -> tuple[str, ...]:
    """Links that lead to no file, and folders that cannot be listed."""
    found = [f"{path}/{skipped}" for skipped in listing.skipped]
    for home in {path, *(f"{path}/{_parent(file)}" for file in listing.paths if "/" in file)}:
        folder = place.folder(home)
        found += [f"{home}/{name}" for name in folder.others if (folder.path / name).is_symlink()]
    return tuple(sorted(found))


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _load_json(place: Place, name: str) -> object:
    with located(place.path / name), place.open(name) as source:
        return strict_json.document(source.read_all(MAX_CONFIG), name, hint=COPY_AGAIN)


def _has_folder(home: Folder, path: str) -> bool:
    for name in path.split("/"):
        if name not in home.folders:
            return False
        home = home.inside(name)
    return True
