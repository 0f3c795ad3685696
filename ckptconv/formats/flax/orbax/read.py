"""Reader of Orbax's folders: what is in them, the lists of their trees, and all that is not an array.

Names and roles are those of Flax's trees (`trees.nested`), of the one item that has arrays, or ``params``,
where there is one alone; other items' arrays are extras. Python's numbers and texts are metadata, and so are documents
of JSON, by their items' names, and what the program that saved it added (``custom_metadata``, ``metrics``). A folder of
steps is its newest.

How arrays lay on devices (``_sharding``), times of day, and who wrote what (``ocdbt.process_0``) are not kept. A random
key of JAX's is the integers that it is made of, which is told; so are items of other kinds, and entries that only a
handler of one's own can read.
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
from ckptconv.formats.flax.orbax.chunks import Kept
from ckptconv.formats.flax.orbax.damage import too_much
from ckptconv.formats.flax.orbax.documents import read_json, shallow
from ckptconv.formats.flax.orbax.item import TreeReader
from ckptconv.formats.flax.tree import Tree, plant, plant_apart
from ckptconv.formats.trees.nested import PARAMS

if TYPE_CHECKING:
    from ckptconv.core.spelling import Json
    from ckptconv.formats.flax.orbax.tree import Value
    from ckptconv.io.folder import Folder

_DEEPEST = 3
"""Items in each other: a random key is one."""


def claims(folder: Folder) -> bool:
    """Whether it is a checkpoint of Orbax's, or a folder of such."""
    try:
        return places.is_checkpoint(folder) or bool(places.steps(folder) or places.checkpoints(folder))
    except CkptconvError:  # a folder in it that may not be listed
        return False


def read(folder: Folder) -> Checkpoint:
    """Open the folder, or its newest step. Reads lists, documents and single numbers, and no array.

    Raises CorruptFileError, LimitError, UnsupportedError, FileAccessError, MissingExtraError (of zstd's package),
    UsageError (a folder of several checkpoints, or of none).
    """
    if places.UNFINISHED in folder.path.name:
        raise CorruptFileError("Orbax has not finished writing this checkpoint", hint="name one that is finished")
    findings: list[Finding] = []
    step = _chosen(folder, findings)
    reader = _Reader(findings)
    with located(step.path):
        return reader.read(step, folder)


def _chosen(folder: Folder, findings: list[Finding]) -> Folder:
    """The folder itself, or its newest step."""
    if places.is_checkpoint(folder):
        return folder
    found = places.steps(folder)
    if not found:
        others = places.checkpoints(folder)
        raise UsageError(
            f"the folder holds {'a checkpoint' if len(others) == 1 else f'{len(others)} checkpoints'}: "
            f"{listed(others, 6)}" if others
            else "there is no Orbax checkpoint in this folder",
            path=folder.path, hint=f"name one of them, such as {folder.path / others[0]}" if others else COPY_ALL_AGAIN,
        )  # fmt: skip
    if len(found) > 1:
        shown = ", ".join(reversed(found[-6:-1])) + (", …" if len(found) > 6 else "")
        message = f"this is {found[-1]!r}, the newest of {len(found)} steps; the others are {shown}"
        findings.append(Finding("newest-step", "info", found[-1], message))
    return folder.inside(found[-1])


class _Reader:
    def __init__(self, findings: list[Finding]) -> None:
        self._findings = findings
        self._kept = Kept()
        self._more: dict[str, MetaNode] = {}

    def read(self, step: Folder, file: Folder) -> Checkpoint:
        """The checkpoint in `step`; `file` is what is closed with it."""
        value = self._item(step, "", 0)
        tree = plant(value) if places.is_tree(step) else _planted(value)
        if not tree.model and not tree.extras and not self._findings:
            raise UnsupportedError("the checkpoint holds no arrays", hint="its documents are plain JSON")
        root = self._with_more(step, tree)
        if is_too_deep(root):
            raise too_much("its metadata is nested too deeply")
        return Checkpoint(
            tree.model, extras=tree.extras, root=root, format="orbax", notes=Notes(source="orbax"),
            findings=tuple(self._findings), file=file,
        )  # fmt: skip

    def _item(self, folder: Folder, name: str, depth: int) -> Value:
        """What an item holds: a tree, a document, or a dict of items."""
        if places.is_tree(folder):
            reader = TreeReader(folder, name, self._kept, self._findings)
            value = reader.read()
            self._add("custom_metadata", reader.custom, places.METADATA)
            return value
        document = places.document(folder)
        if document is not None and depth:
            return shallow(read_json(folder.open(document)), document)
        known = places.items(folder) if depth < _DEEPEST else []
        for other in folder.folders:
            if other not in known and places.UNFINISHED not in other:
                self._say_unread(f"{name}.{other}" if name else other)
        return {one: self._item(folder.inside(one), f"{name}.{one}" if name else one, depth + 1) for one in known}

    def _say_unread(self, name: str) -> None:
        message = f"the item {name!r} is of a kind that is not read: it holds neither Orbax arrays nor JSON"
        self._findings.append(Finding("unread-item", "warning", name, message))

    def _with_more(self, step: Folder, tree: Tree) -> MetaNode:
        """The root, with what the program that saved it added."""
        file = places.CHECKPOINT_METADATA
        document = read_json(step.open(file)) if file in step.names else None
        for key in ("custom_metadata", "metrics"):
            self._add(key, document.get(key) if isinstance(document, dict) else None, file)
        more = self._more
        if not more:
            return tree.root
        if isinstance(tree.root, dict):
            return {**tree.root, **{free_key(key, tree.root): value for key, value in more.items()}}
        key = "state_dict" if isinstance(tree.root, StateDict) else "data"
        return {free_key(key, more): tree.root, **more}

    def _add(self, key: str, value: Json, file: str) -> None:
        if value:
            self._more[free_key(key, self._more)] = shallow(value, file)


def _planted(items: dict[str, Value]) -> Tree:
    """The tree of several items. The model is in the only one that has arrays, or the only one with params; others'
    arrays are extras then.
    """
    holding = [name for name, one in items.items() if _has_tensors(one)]
    if len(holding) > 1:
        holding = [name for name in holding if isinstance(items[name], dict) and _has_tensors(items[name].get(PARAMS))]
    if len(holding) != 1:
        return plant(items)
    tree = plant(items[holding[0]])
    apart = plant_apart({name: one for name, one in items.items() if name != holding[0]})
    if apart.extras.keys() & (tree.model.keys() | tree.extras.keys()):
        return plant(items)
    if isinstance(apart.root, dict) and apart.root:
        tree.root = {name: tree.root if name == holding[0] else apart.root[name] for name in items}
    tree.extras |= apart.extras
    return tree


def _has_tensors(value: Value) -> bool:
    """Whether there are tensors in it, or it is one."""
    if isinstance(value, dict):
        return any(map(_has_tensors, value.values()))
    return any(map(_has_tensors, value)) if isinstance(value, (list, tuple)) else isinstance(value, LazyTensor)
