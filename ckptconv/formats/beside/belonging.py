"""What of a model's folder is the model's, besides the weights that are read, and goes where they go.

Files are, that end as in `TAKEN`: configuration, tokenizer, chat templates. Of folders those are that the model's
libraries are told to read:

    modules.json                    sentence-transformers (`formats.modules`): a module in each, with its configuration
                                    and, of a Dense layer, a router or another encoder, weights. A folder that is not
                                    there is of a module without either
    model_index.json                diffusers: {"unet": [library, class], …}, a component in each
    additional_chat_templates/      transformers: NAME.jinja, each a template

Beside SetFit's ``config_setfit.json``, its classifier is in ``model_head.pkl``; without it SetFit makes one at random.

Of those of modules the weights belong to the model as well: no checkpoint is read from there. Not code, what is in
`LEFT`, and other folders, such as the same weights as ONNX.

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
from ckptconv.formats.modules import MODULES, paths_in
from ckptconv.io.limits import MAX_CONFIG

if TYPE_CHECKING:
    from collections.abc import Collection

    from ckptconv.formats.beside.files import Listing
    from ckptconv.formats.beside.places import Place
    from ckptconv.io.folder import Folder

PIPELINE, TEMPLATES = "model_index.json", "additional_chat_templates"

TAKEN = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".spm", ".codes")

LEFT = ("index.json", "trainer_state.json", "adapter_config.json")
"""Of shards, of a trainer's run, of an adapter: nothing of the model that is written."""

HEADS = {"config_setfit.json": "model_head.pkl"}
"""Pickles beside the weights that are a part of the model where a configuration of this name is there."""

SAFE, PICKLED = ".safetensors", ".bin"
"""Weights of a module, and those that nobody loads where the first are beside them."""


@dataclass(frozen=True, slots=True)
class Part:
    """A folder that is a part of the model, by its path, and the paths of its files and of those below.

    files: those that go along. others: those of a module's that do not. lost: links to nowhere, and to elsewhere.
    """

    path: str
    files: tuple[str, ...]
    others: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


def is_taken(name: str, left: tuple[str, ...] = LEFT) -> bool:
    """Whether a file beside the weights, of this name or path, goes along."""
    return name == PIPELINE or (name.endswith(TAKEN) and not name.endswith(left))


def heads_in(names: Collection[str]) -> tuple[str, ...]:
    """Those of the files that are parts of the model as `HEADS` says."""
    return tuple(head for config, head in HEADS.items() if config in names and head in names)


def parts_of(place: Place) -> list[Part]:
    """The folders that are there of those that the model's libraries read.

    Raises CorruptFileError where a list of them is none, or names what is not a folder in this one, and LimitError.
    """
    home = place.folder("")
    found = [_part(place, TEMPLATES)] if TEMPLATES in home.folders else []
    if PIPELINE in home.names:
        index = _document(place, PIPELINE)
        found += [_part(place, name) for name in home.folders if isinstance(index, dict) and name in index]
    if MODULES in home.names:
        with located(place.path / MODULES):
            paths = dict.fromkeys(paths_in(_document(place, MODULES)))
        found += [_module(place, path) for path in paths if _is_there(home, path)]
    return found


def _part(place: Place, path: str) -> Part:
    if _leads_out(place, path):
        return Part(path, (), (), (path,))
    listing = place.below(path).listing()
    return Part(
        path, tuple(f"{path}/{file}" for file in listing.paths if is_taken(file)), (), _lost(place, path, listing)
    )


def _module(place: Place, path: str) -> Part:
    if _leads_out(place, path):
        return Part(path, (), (), (path,))
    listing = place.below(path).listing()
    safe = {_home(file) for file in listing.paths if file.endswith(SAFE)}
    files: list[str] = []
    others: list[str] = []
    for file in listing.paths:
        copy = file.endswith((PICKLED, f"{PICKLED}.index.json")) and _home(file) in safe
        goes = is_taken(file) or file.endswith((SAFE, PICKLED, f"{SAFE}.index.json", f"{PICKLED}.index.json"))
        if not copy:
            (files if goes else others).append(f"{path}/{file}")
    return Part(path, tuple(files), tuple(others), _lost(place, path, listing))


def _leads_out(place: Place, path: str) -> bool:
    """Whether a folder is a link to elsewhere, where nothing is the model's."""
    return not PurePath(os.path.realpath(place.path / path)).is_relative_to(os.path.realpath(place.path))


def _lost(place: Place, path: str, listing: Listing) -> tuple[str, ...]:
    """Links that lead to no file, and folders that cannot be listed."""
    found = [f"{path}/{one}" for one in listing.unseen]
    for home in {path, *(f"{path}/{_home(file)}" for file in listing.paths if "/" in file)}:
        folder = place.folder(home)
        found += [f"{home}/{name}" for name in folder.others if (folder.path / name).is_symlink()]
    return tuple(sorted(found))


def _home(path: str) -> str:
    return path.rpartition("/")[0]


def _document(place: Place, name: str) -> object:
    with located(place.path / name), place.open(name) as source:
        return strict_json.document(source.read_all(MAX_CONFIG), name, hint=COPY_AGAIN)


def _is_there(home: Folder, path: str) -> bool:
    for name in path.split("/"):
        if name not in home.folders:
            return False
        home = home.inside(name)
    return True
