"""Reader of the folders that diffusers' ``DiffusionPipeline.save_pretrained`` writes: one checkpoint of several models.

    model_index.json     {"unet": ["diffusers", "UNet2DConditionModel"], "image_encoder": [null, null], …}
    unet/                each name with a library and a class is a component, and a folder: config.json beside weights
    text_encoder/        that are a checkpoint by themselves, one file or shards
    scheduler/           schedulers, tokenizers and processors have no weights, and are passed over

A tensor is called by its component and its name in it, ``unet.conv_in.weight``: as the attributes of a pipeline are,
and as ``--translate ldm`` calls what is in a single file. Metadata that a component's file has stand under its name.
Each folder can be opened by itself as well.

Refused: components that the index names and that are not there, models without weights, and pipelines in pipelines.
Modules of Python in the folder are never looked at.

Source: diffusers, pipelines/pipeline_utils.py (`save_pretrained`, `register_modules`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ckptconv.arch.statements import CONFIG
from ckptconv.core import strict_json
from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.metadata import StateDict, TensorRef, rebuilt, walk
from ckptconv.core.names import free_key
from ckptconv.core.notes import Notes
from ckptconv.errors import COPY_ALL_AGAIN, CkptconvError, CorruptFileError, UnsupportedError, located
from ckptconv.formats.detect import claimed
from ckptconv.io.limits import MAX_CONFIG

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptconv.core.composite import Composite
    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.report import Finding
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.io.folder import Folder

NAME = "diffusers"
INDEX = "model_index.json"

MOST_COMPONENTS = 64
"""Models of a pipeline; diffusers' largest have seven."""

_WEIGHTLESS = ("Scheduler", "Tokenizer", "Processor", "FeatureExtractor")
"""What is in the names of classes that have no weights."""


def claims(folder: Folder) -> bool:
    """Whether there is an index that names models."""
    try:
        return INDEX in folder.names and bool(_components(folder))
    except CkptconvError:
        return False


def read(folder: Folder) -> Checkpoint:
    """Open the index, and each component as its own format does.

    Raises CorruptFileError, UnsupportedError, and what the components' readers raise, with their paths.
    """
    whole = _Whole()
    for name in _components(folder):
        if "." in name or name not in folder.folders:
            why = "which is no component's" if "." in name else "and there is no such folder"
            raise CorruptFileError(f"{INDEX} names {name!r}, {why}", path=folder.path, hint=COPY_ALL_AGAIN)
        inside = folder.inside(name)
        with located(inside.path):
            one = claimed(inside)
            if one is not None and one.name == NAME:
                raise UnsupportedError("it is a pipeline in a pipeline", hint="name its folder by itself")
            if one is not None:
                whole.add(name, one.read(inside))
            elif CONFIG in inside.names:  # a scheduler's, a tokenizer's and a processor's are called otherwise
                raise CorruptFileError(f"there are no weights beside its {CONFIG}", hint=COPY_ALL_AGAIN)
    return whole.checkpoint(folder)


def _components(folder: Folder) -> list[str]:
    """The names of the models. Raises CorruptFileError where the index is none, and where it has too many."""
    with located(folder.path):
        said = strict_json.object_of(folder.open(INDEX).read_all(MAX_CONFIG), INDEX, hint=COPY_ALL_AGAIN)
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
    extras: dict[str, LazyTensor] = field(default_factory=dict)
    composites: dict[str, Composite] = field(default_factory=dict)
    metadata: dict[MetaNode, MetaNode] = field(default_factory=dict)
    versions: dict[MetaNode, MetaNode] = field(default_factory=dict)
    notes: Notes = field(default_factory=lambda: Notes(source=NAME))
    findings: list[Finding] = field(default_factory=list)

    def add(self, name: str, part: Checkpoint) -> None:
        """A component."""
        before = f"{name}."

        def prefixed(tensors: Mapping[str, LazyTensor]) -> Iterator[tuple[str, LazyTensor]]:
            for key, tensor in tensors.items():
                alias = None if tensor.alias is None else (name, tensor.alias)
                yield before + key, replace(tensor, alias=alias)

        def referred(node: MetaNode) -> MetaNode:
            return TensorRef(before + node.name) if isinstance(node, TensorRef) else node

        self.tensors |= prefixed(part)
        self.extras |= prefixed(part.extras)
        self.composites |= {
            before + key: replace(one, parts={role: before + tensor for role, tensor in one.parts.items()})
            for key, one in part.composites.items()
        }
        if metadata := part.metadata:
            self.metadata[name] = rebuilt(metadata, referred)
        for _, node in walk(part.root):
            if isinstance(node, StateDict) and isinstance(node.versions, dict):
                inside = before + node.prefix
                self.versions |= {f"{inside}{path}".rstrip("."): entry for path, entry in node.versions.items()}
        self._note(name, part.notes)
        self.findings += [replace(one, message=f"{name}: {one.message}") for one in part.findings]

    def _note(self, name: str, notes: Notes) -> None:
        ours, before = self.notes, f"{name}."
        self.notes = replace(
            ours,
            tensors={**ours.tensors, **{before + key: note for key, note in notes.tensors.items()}},
            strides={**ours.strides, **{before + key: strides for key, strides in notes.strides.items()}},
            attributes={**ours.attributes, **{before + key: node for key, node in notes.attributes.items()}},
            versions={**ours.versions, **{(name, *path): node for path, node in notes.versions.items()}},
            globals=tuple(dict.fromkeys((*ours.globals, *notes.globals))),
            unseen=(*ours.unseen, *notes.unseen),
            programs=(*ours.programs, *notes.programs),
        )

    def checkpoint(self, folder: Folder) -> Checkpoint:
        """All of them."""
        hole = StateDict(versions=self.versions or None)
        root = {**self.metadata, free_key("state_dict", self.metadata): hole} if self.metadata else hole
        return Checkpoint(
            self.tensors, extras=self.extras, composites=self.composites, root=root, format=NAME, notes=self.notes,
            findings=tuple(self.findings), file=folder,
        )  # fmt: skip
