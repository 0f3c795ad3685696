"""Reading a DeepSpeed checkpoint's files, and keeping track of where their tensors are."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ckptconv.core.metadata import RUNS, Opaque, nodes_of
from ckptconv.errors import located
from ckptconv.formats.torch.deepspeed.states import File, open_file
from ckptconv.formats.torch.pickle import Budget, StateOrderedDict
from ckptconv.formats.torch.tree.assemble import assemble
from ckptconv.formats.torch.tree.build import build_tree_around
from ckptconv.formats.torch.tree.names import merge_uses
from ckptconv.formats.torch.tree.placing import Places

if TYPE_CHECKING:
    from collections import OrderedDict
    from collections.abc import Callable, Hashable, Mapping

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.notes import Notes
    from ckptconv.core.report import Finding
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.formats.torch.pickle import Value
    from ckptconv.formats.torch.values.stubs import TensorStub
    from ckptconv.io.folder import Folder

NAME = "deepspeed"
OPTIMIZER = "optimizer_state_dict"


@dataclass(slots=True)
class Reading:
    """Reads files and places their tensors, and those that are joined from several.

    folder: the folder, which is closed with the checkpoint.
    size:   bytes of all pickles.
    budget: the values that all pickles together may expand to.
    opened: the files that were read.
    """

    folder: Folder
    size: int = 0
    budget: Budget = field(default_factory=lambda: Budget(0))
    opened: list[File] = field(default_factory=list)
    places: Places = field(default_factory=Places)
    findings: list[Finding] = field(default_factory=list)

    def open(self, folder: Folder, name: str) -> File:
        """Read a file's pickle. Raises CkptconvError with its path."""
        file = open_file(folder, name)
        self.opened.append(file)
        self.size += file.saved.size
        self.budget = Budget(self.size)
        self.places.add(file.saved.storages, _placed_in(file))
        return file

    def place(self, name: str, stub: TensorStub) -> LazyTensor:
        """The tensor for a stub: a joined one, or one in a file. Raises CkptconvError with its path."""
        return self.places.place(name, stub)

    def alias(self, name: str) -> Hashable:
        """The alias of a parameter's tensor, which all of its names share."""
        return id(self), name

    def finish(self, tensors: OrderedDict[str, Value], beside: dict[Value, Value]) -> Checkpoint:
        """The checkpoint with these tensors as the model's, and the values beside them."""
        tree = build_tree_around(tensors, beside, self.budget)
        machines = [file.saved.machine for file in self.opened]
        checkpoint = assemble(
            tree, self.place, self.budget, format=NAME, machines=machines, file=self.folder,
            findings=tuple(self.findings),
        )  # fmt: skip
        checkpoint.notes = _without_repeats(checkpoint.notes, checkpoint.root)
        return checkpoint


def _placed_in(file: File) -> Callable[[str, TensorStub], LazyTensor]:
    def place(name: str, stub: TensorStub) -> LazyTensor:
        with located(file.path):
            return file.saved.placer.place(name, stub)

    return place


def state_dict(module: Mapping[Value, Value], members: Mapping[Value, Value]) -> OrderedDict[str, Value]:
    """The members as a state_dict, with the module's versions."""
    result = StateOrderedDict(members)
    result.state = module.state if isinstance(module, StateOrderedDict) else None
    return result


def _without_repeats(notes: Notes, root: MetaNode) -> Notes:
    """The notes with one object of each class, because the ranks repeat the same objects. Calls are all kept."""
    known = {node.name for node in nodes_of(root, Opaque)}
    unseen = []
    for node in notes.unseen:
        if node.how in RUNS or node.name not in known:
            unseen.append(node)
        known.add(node.name)
    return replace(notes, globals=merge_uses(notes.globals), unseen=tuple(unseen))
