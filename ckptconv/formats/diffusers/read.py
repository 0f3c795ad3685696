"""Reader of the folders that diffusers' ``DiffusionPipeline.save_pretrained`` writes: one checkpoint of several models.

    model_index.json     {"unet": ["diffusers", "UNet2DConditionModel"], "image_encoder": [null, null], …}
    unet/                each name with a library and a class is a component, and a folder: config.json beside weights
    text_encoder/        that are a checkpoint by themselves, one file or shards
    scheduler/           schedulers, tokenizers and processors have no weights, and are passed over

A tensor is called by its component and its name in it, ``unet.conv_in.weight``: as the attributes of a pipeline are,
and as ``--translate ldm`` calls what is in a single file. Metadata that a component's file has stand under its name.
Each folder can be opened by itself as well.

Refused: components that the index names and that are not there, models without weights, and such as hold more than a
model's tensors. Modules of Python in the folder are never looked at.

Source: diffusers, pipelines/pipeline_utils.py (`save_pretrained`, `register_modules`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.metadata import StateDict, walk
from ckptconv.core.notes import Notes
from ckptconv.errors import CkptconvError, CorruptFileError, UnsupportedError
from ckptconv.formats import registry
from ckptconv.io.limits import MAX_CONFIG

if TYPE_CHECKING:
    from ckptconv.core.composite import Composite
    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.report import Finding
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.io.folder import Folder

NAME = "diffusers"
INDEX = "model_index.json"
CONFIG = "config.json"
"""What every model has; those of schedulers, tokenizers and processors are called otherwise."""

MOST_COMPONENTS = 64
"""Models of a pipeline; diffusers' largest have seven."""

_WEIGHTLESS = ("Scheduler", "Tokenizer", "Processor", "FeatureExtractor")
"""What is in the names of classes that have no weights."""

_COPY_AGAIN = "copy the pipeline again from where it came"


def claims(folder: Folder) -> bool:
    """Whether there is an index that names models."""
    try:
        return INDEX in folder.names and bool(_components(folder))
    except CkptconvError:
        return False


def read(folder: Folder) -> Checkpoint:
    """Open the index, and each component as its own format does.

    Raises CorruptFileError, UnsupportedError, LimitError, and what the components' readers raise, with their paths.
    """
    whole = _Whole()
    for name in _components(folder):
        if name not in folder.folders:
            raise CorruptFileError(
                f"{INDEX} names {name!r}, and there is no such folder", path=folder.path, hint=_COPY_AGAIN
            )
        inside = folder.inside(name)
        try:
            one = registry.claimed(inside)
            if one is not None:
                whole.add(name, one.read(inside))
            elif CONFIG in inside.names:
                raise CorruptFileError(f"there are no weights beside its {CONFIG}", hint=_COPY_AGAIN)
        except CkptconvError as error:
            raise error.at(inside.path) from error.__cause__
    return whole.checkpoint(folder)


def _components(folder: Folder) -> list[str]:
    """The names of the models. Raises CorruptFileError where the index is none, and where it has too many."""
    source = folder.open(INDEX)
    if source.size > MAX_CONFIG:
        raise CorruptFileError(f"{INDEX} has {source.size:,} bytes", path=source.path, hint="do not trust it")
    text = bytes(source.read_at(0, source.size))
    try:
        said = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"{INDEX} is no JSON: {error}", path=folder.path, hint=_COPY_AGAIN) from error
    if not isinstance(said, dict):
        raise CorruptFileError(f"{INDEX} is no JSON object", path=folder.path, hint=_COPY_AGAIN)
    found = [name for name, value in said.items() if _is_model(name, value)]
    if len(found) > MOST_COMPONENTS:
        raise CorruptFileError(f"{INDEX} names {len(found):,} models", path=folder.path, hint="do not trust it")
    return found


def _is_model(name: str, value: object) -> bool:
    if name.startswith("_") or not isinstance(value, list) or len(value) != 2:
        return False
    library, kind = value
    return isinstance(library, str) and isinstance(kind, str) and not any(word in kind for word in _WEIGHTLESS)


@dataclass(slots=True)
class _Whole:
    """What the components say together."""

    tensors: dict[str, LazyTensor] = field(default_factory=dict)
    composites: dict[str, Composite] = field(default_factory=dict)
    metadata: dict[MetaNode, MetaNode] = field(default_factory=dict)
    versions: dict[MetaNode, MetaNode] = field(default_factory=dict)
    notes: Notes = field(default_factory=lambda: Notes(source=NAME))
    findings: list[Finding] = field(default_factory=list)

    def add(self, name: str, part: Checkpoint) -> None:
        """A component. Raises UnsupportedError where it is more than a model."""
        holes = [node for _, node in walk(part.root) if isinstance(node, StateDict)]
        if part.extras or len(holes) != 1 or holes[0].prefix or holes[0].plain:
            raise UnsupportedError(
                "it holds more than a model's tensors, and is no part of a pipeline", hint="name its folder by itself"
            )
        before = f"{name}."
        self.tensors |= {
            before + key: replace(tensor, alias=None if tensor.alias is None else (name, tensor.alias))
            for key, tensor in part.items()
        }
        self.composites |= {
            before + key: replace(one, parts={role: before + tensor for role, tensor in one.parts.items()})
            for key, one in part.composites.items()
        }
        if metadata := part.metadata:
            self.metadata[name] = metadata
        if isinstance(holes[0].versions, dict):
            self.versions |= {f"{before}{path}".rstrip("."): entry for path, entry in holes[0].versions.items()}
        self._note(before, part.notes)
        self.findings += [replace(one, message=f"{name}: {one.message}") for one in part.findings]

    def _note(self, before: str, notes: Notes) -> None:
        ours = self.notes
        self.notes = replace(
            ours,
            tensors={**ours.tensors, **{before + name: note for name, note in notes.tensors.items()}},
            strides={**ours.strides, **{before + name: strides for name, strides in notes.strides.items()}},
            attributes={**ours.attributes, **{before + name: node for name, node in notes.attributes.items()}},
            globals=tuple(dict.fromkeys((*ours.globals, *notes.globals))),
            unseen=(*ours.unseen, *notes.unseen),
            programs=(*ours.programs, *notes.programs),
        )

    def checkpoint(self, folder: Folder) -> Checkpoint:
        """All of them."""
        hole = StateDict(versions=self.versions or None)
        root = {**self.metadata, "state_dict": hole} if self.metadata else hole
        return Checkpoint(
            self.tensors, composites=self.composites, root=root, format=NAME, notes=self.notes,
            findings=tuple(self.findings), file=folder,
        )  # fmt: skip
