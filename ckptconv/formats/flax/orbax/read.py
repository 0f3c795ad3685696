"""Reader of Orbax's folders: finds the step and its items, and makes a checkpoint of them.

Names and roles are those of Flax's trees (`trees.nested`). The model is in the only item with arrays, or else the only
one with ``params``; the arrays of other items are extras. Python's numbers and texts are metadata; so are JSON items,
under the items' names, and what the saving program added (``custom_metadata``, ``metrics``). A folder of steps stands
for its newest step.

Not kept: how arrays were laid out on devices (``_sharding``), times, and which process wrote what
(``ocdbt.process_0``). Reported: JAX's random keys, which are read as their integers, items of other kinds, and entries
that only a custom handler can read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.metadata import MetaNode, StateDict, is_too_deep
from ckptconv.core.names import free_key
from ckptconv.core.notes import Notes
from ckptconv.core.report import Finding
from ckptconv.core.tensor import LazyTensor
from ckptconv.core.text import listed
from ckptconv.errors import COPY_ALL_AGAIN, CkptconvError, CorruptFileError, UnsupportedError, UsageError, located
from ckptconv.formats.flax.orbax import places
from ckptconv.formats.flax.orbax.chunks import Cache
from ckptconv.formats.flax.orbax.damage import too_much
from ckptconv.formats.flax.orbax.documents import read_json, shallow
from ckptconv.formats.flax.orbax.item import TreeReader
from ckptconv.formats.flax.tree import Tree, split_extra_tree, split_tree
from ckptconv.formats.trees.nested import PARAMS

if TYPE_CHECKING:
    from ckptconv.core.spelling import Json
    from ckptconv.formats.flax.orbax.tree import Value
    from ckptconv.io.folder import Folder

_MAX_ITEM_DEPTH = 3
"""Of nested items; a random key is an item in an item."""


def claims(folder: Folder) -> bool:
    """Whether the folder is an Orbax checkpoint, or holds some."""
    try:
        return places.is_checkpoint(folder) or bool(places.steps(folder) or places.checkpoints(folder))
    except CkptconvError:  # for example, a folder inside may not be listed
        return False


def read(folder: Folder) -> Checkpoint:
    """Open the folder, or its newest step. Reads lists, documents and single numbers, but no arrays.

    Raises CorruptFileError, LimitError, UnsupportedError, FileAccessError, MissingExtraError (for zstd), UsageError
    (for a folder with several checkpoints, or none).
    """
    if places.UNFINISHED in folder.path.name:
        raise CorruptFileError("Orbax has not finished writing this checkpoint", hint="name one that is finished")
    findings: list[Finding] = []
    step = _choose_step(folder, findings)
    reader = _Reader(findings)
    with located(step.path):
        return reader.read(step, folder)


def _choose_step(folder: Folder, findings: list[Finding]) -> Folder:
    """The folder itself if it is a checkpoint, else its newest step. Raises UsageError."""
    if places.is_checkpoint(folder):
        return folder
    steps = places.steps(folder)
    if not steps:
        raise _no_step_error(folder)
    if len(steps) > 1:
        shown = ", ".join(reversed(steps[-6:-1])) + (", …" if len(steps) > 6 else "")
        message = f"this is {steps[-1]!r}, the newest of {len(steps)} steps; the others are {shown}"
        findings.append(Finding("newest-step", "info", steps[-1], message))
    return folder.inside(steps[-1])


def _no_step_error(folder: Folder) -> UsageError:
    """The error for a folder that is no checkpoint and has no steps; it lists checkpoints with other names."""
    checkpoints = places.checkpoints(folder)
    if not checkpoints:
        return UsageError("there is no Orbax checkpoint in this folder", path=folder.path, hint=COPY_ALL_AGAIN)
    count = "a checkpoint" if len(checkpoints) == 1 else f"{len(checkpoints)} checkpoints"
    return UsageError(
        f"the folder holds {count}: {listed(checkpoints, 6)}", path=folder.path,
        hint=f"name one of them, such as {folder.path / checkpoints[0]}",
    )  # fmt: skip


class _Reader:
    def __init__(self, findings: list[Finding]) -> None:
        self._findings = findings
        self._cache = Cache()
        self._added: dict[str, MetaNode] = {}

    def read(self, step: Folder, file: Folder) -> Checkpoint:
        """The checkpoint in `step`; closing it closes `file`."""
        value = self._read_item(step, "", 0)
        tree = split_tree(value) if places.is_tree(step) else _split_items(value)
        if not tree.model and not tree.extras and not self._findings:
            raise UnsupportedError("the checkpoint holds no arrays", hint="its documents are plain JSON")
        root = self._with_added_metadata(step, tree)
        if is_too_deep(root):
            raise too_much("its metadata is nested too deeply")
        return Checkpoint(
            tree.model, extras=tree.extras, root=root, format="orbax", notes=Notes(source="orbax"),
            findings=tuple(self._findings), file=file,
        )  # fmt: skip

    def _read_item(self, folder: Folder, name: str, depth: int) -> Value:
        """The contents of an item: a tree, a JSON document, or a dict of items."""
        if places.is_tree(folder):
            reader = TreeReader(folder, name, self._cache, self._findings)
            value = reader.read()
            self._add("custom_metadata", reader.custom, places.METADATA)
            return value
        document = places.document(folder)
        if document is not None and depth:
            return shallow(read_json(folder.open(document)), document)
        items = places.items(folder) if depth < _MAX_ITEM_DEPTH else []
        prefix = f"{name}." if name else ""
        for other in folder.folders:
            if other not in items and places.UNFINISHED not in other:
                self._report_unread(prefix + other)
        return {item: self._read_item(folder.inside(item), prefix + item, depth + 1) for item in items}

    def _report_unread(self, name: str) -> None:
        message = f"the item {name!r} is of a kind that is not read: it holds neither Orbax arrays nor JSON"
        self._findings.append(Finding("unread-item", "warning", name, message))

    def _with_added_metadata(self, step: Folder, tree: Tree) -> MetaNode:
        """The metadata tree, with what the saving program added."""
        file = places.CHECKPOINT_METADATA
        document = read_json(step.open(file)) if file in step.names else None
        for key in ("custom_metadata", "metrics"):
            self._add(key, document.get(key) if isinstance(document, dict) else None, file)
        added = self._added
        if not added:
            return tree.root
        if isinstance(tree.root, dict):
            return {**tree.root, **{free_key(key, tree.root): value for key, value in added.items()}}
        key = "state_dict" if isinstance(tree.root, StateDict) else "data"
        return {free_key(key, added): tree.root, **added}

    def _add(self, key: str, value: Json, file: str) -> None:
        if value:
            self._added[free_key(key, self._added)] = shallow(value, file)


def _split_items(items: dict[str, Value]) -> Tree:
    """The tree of several items.

    The model is in the only item with arrays, or else the only one with params; the arrays of others are then extras.
    """
    candidates = [name for name, value in items.items() if _has_tensors(value)]
    if len(candidates) > 1:
        candidates = [
            name for name in candidates if isinstance(items[name], dict) and _has_tensors(items[name].get(PARAMS))
        ]
    if len(candidates) != 1:
        return split_tree(items)
    (model,) = candidates
    tree = split_tree(items[model])
    others = split_extra_tree({name: value for name, value in items.items() if name != model})
    if others.extras.keys() & (tree.model.keys() | tree.extras.keys()):
        return split_tree(items)
    if isinstance(others.root, dict) and others.root:
        tree.root = {name: tree.root if name == model else others.root[name] for name in items}
    tree.extras |= others.extras
    return tree


def _has_tensors(value: Value) -> bool:
    """Whether the value is, or contains, a tensor."""
    if isinstance(value, dict):
        return any(map(_has_tensors, value.values()))
    return any(map(_has_tensors, value)) if isinstance(value, (list, tuple)) else isinstance(value, LazyTensor)
