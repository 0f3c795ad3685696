"""Reader of the folders that diffusers' ``DiffusionPipeline.save_pretrained`` writes: several models as one checkpoint.

    model_index.json     {"unet": ["diffusers", "UNet2DConditionModel"], "image_encoder": [null, null], …}
    unet/                each name with a library and a class is a component, with a folder: config.json, and weights
    text_encoder/        that are a checkpoint of their own, one file or shards
    scheduler/           schedulers, tokenizers and processors have no weights, and are skipped

A tensor's name is that of its component and its name there, ``unet.conv_in.weight``: like the attributes of a pipeline,
and the names that ``--translate ldm`` gives to the tensors of a single file. A component's metadata is under its name.
Each component's folder can also be opened by itself.

Refused: components without a folder, models without weights, and pipelines in pipelines. Python modules in the folder
are never read.

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
from ckptconv.formats.detect import find_format
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

MAX_COMPONENTS = 64
"""The most models of a pipeline; diffusers' largest have seven."""

_WEIGHTLESS = ("Scheduler", "Tokenizer", "Processor", "FeatureExtractor")
"""Words in the names of classes that have no weights."""


def claims(folder: Folder) -> bool:
    """Whether there is an index that names models."""
    try:
        return INDEX in folder.names and bool(_component_names(folder))
    except CkptconvError:
        return False


def read(folder: Folder) -> Checkpoint:
    """Open the index, and each component with its format's reader.

    Raises CorruptFileError, UnsupportedError, and what the components' readers raise, with their paths.
    """
    pipeline = _Pipeline()
    for name in _component_names(folder):
        if "." in name or name not in folder.folders:
            why = "which cannot be a component" if "." in name else "and there is no such folder"
            raise CorruptFileError(f"{INDEX} names {name!r}, {why}", path=folder.path, hint=COPY_ALL_AGAIN)
        inside = folder.inside(name)
        with located(inside.path):
            one = find_format(inside)
            if one is not None and one.name == NAME:
                raise UnsupportedError("it is a pipeline in a pipeline", hint="name its folder by itself")
            if one is not None:
                pipeline.add(name, one.read(inside))
            elif CONFIG in inside.names:  # schedulers, tokenizers and processors have configurations of other names
                raise CorruptFileError(f"there are no weights beside its {CONFIG}", hint=COPY_ALL_AGAIN)
    return pipeline.checkpoint(folder)


def _component_names(folder: Folder) -> list[str]:
    """The names of the models. Raises CorruptFileError if the index is invalid, or has too many."""
    with located(folder.path):
        index = strict_json.object_of(folder.open(INDEX).read_all(MAX_CONFIG), INDEX, hint=COPY_ALL_AGAIN)
    found = [name for name, value in index.items() if _is_model(name, value)]
    if len(found) > MAX_COMPONENTS:
        raise CorruptFileError(f"{INDEX} names {len(found):,} models", path=folder.path, hint="do not trust it")
    return found


def _is_model(name: str, value: object) -> bool:
    if name.startswith("_") or not isinstance(value, list) or len(value) != 2:
        return False
    library, kind = value
    return isinstance(library, str) and isinstance(kind, str) and not any(word in kind for word in _WEIGHTLESS)


@dataclass(slots=True)
class _Pipeline:
    """Collects the components' contents under prefixed names."""

    tensors: dict[str, LazyTensor] = field(default_factory=dict)
    extras: dict[str, LazyTensor] = field(default_factory=dict)
    composites: dict[str, Composite] = field(default_factory=dict)
    metadata: dict[MetaNode, MetaNode] = field(default_factory=dict)
    versions: dict[MetaNode, MetaNode] = field(default_factory=dict)
    notes: Notes = field(default_factory=lambda: Notes(source=NAME))
    findings: list[Finding] = field(default_factory=list)

    def add(self, name: str, part: Checkpoint) -> None:
        """Add the checkpoint of a component."""
        prefix = f"{name}."

        def with_prefix(tensors: Mapping[str, LazyTensor]) -> Iterator[tuple[str, LazyTensor]]:
            for key, tensor in tensors.items():
                alias = None if tensor.alias is None else (name, tensor.alias)
                yield prefix + key, replace(tensor, alias=alias)

        def prefix_reference(node: MetaNode) -> MetaNode:
            return TensorRef(prefix + node.name) if isinstance(node, TensorRef) else node

        self.tensors |= with_prefix(part)
        self.extras |= with_prefix(part.extras)
        self.composites |= {
            prefix + key: replace(whole, parts={role: prefix + tensor for role, tensor in whole.parts.items()})
            for key, whole in part.composites.items()
        }
        if metadata := part.metadata:
            self.metadata[name] = rebuilt(metadata, prefix_reference)
        for _, node in walk(part.root):
            if isinstance(node, StateDict) and isinstance(node.versions, dict):
                module = prefix + node.prefix
                self.versions |= {f"{module}{path}".rstrip("."): entry for path, entry in node.versions.items()}
        self._add_notes(name, part.notes)
        self.findings += [replace(finding, message=f"{name}: {finding.message}") for finding in part.findings]

    def _add_notes(self, name: str, notes: Notes) -> None:
        ours, prefix = self.notes, f"{name}."
        self.notes = replace(
            ours,
            tensors={**ours.tensors, **{prefix + key: note for key, note in notes.tensors.items()}},
            strides={**ours.strides, **{prefix + key: strides for key, strides in notes.strides.items()}},
            attributes={**ours.attributes, **{prefix + key: node for key, node in notes.attributes.items()}},
            versions={**ours.versions, **{(name, *path): node for path, node in notes.versions.items()}},
            globals=tuple(dict.fromkeys((*ours.globals, *notes.globals))),
            unseen=(*ours.unseen, *notes.unseen),
            programs=(*ours.programs, *notes.programs),
        )

    def checkpoint(self, folder: Folder) -> Checkpoint:
        """The checkpoint of the whole pipeline."""
        state_dict = StateDict(versions=self.versions or None)
        root = {**self.metadata, free_key("state_dict", self.metadata): state_dict} if self.metadata else state_dict
        return Checkpoint(
            self.tensors, extras=self.extras, composites=self.composites, root=root, format=NAME, notes=self.notes,
            findings=tuple(self.findings), file=folder,
        )  # fmt: skip
