"""What every checkpoint of DeepSpeed's is opened with: the files that are followed, and where their tensors are."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ckptconv.core.metadata import RUNS, Opaque, nodes_of
from ckptconv.errors import located
from ckptconv.formats.torch.deepspeed.states import File, open_file
from ckptconv.formats.torch.pickle import Budget, StateOrderedDict
from ckptconv.formats.torch.tree.assemble import assemble
from ckptconv.formats.torch.tree.names import merge_uses
from ckptconv.formats.torch.tree.placing import Places
from ckptconv.formats.torch.tree.roots import plant_state_dict

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
    """Follows files and places their tensors, those that are put together as well.

    folder: what is closed with the checkpoint.
    size:   bytes of all pickles.
    """

    folder: Folder
    size: int = 0
    budget: Budget = field(default_factory=lambda: Budget(0))
    opened: list[File] = field(default_factory=list)
    places: Places = field(default_factory=Places)
    findings: list[Finding] = field(default_factory=list)

    def open(self, folder: Folder, name: str) -> File:
        """Follow the pickle of a file. Raises CkptconvError, with its path."""
        file = open_file(folder, name)
        self.opened.append(file)
        self.size += file.saved.size
        self.budget = Budget(self.size)
        self.places.add(file.saved.storages, _placed_in(file))
        return file

    def place(self, name: str, stub: TensorStub) -> LazyTensor:
        """A planted tensor: one that was put together, or one of a file's own. Raises CkptconvError, with its path."""
        return self.places.place(name, stub)

    def alias(self, name: str) -> Hashable:
        """What the names of one parameter have in common."""
        return id(self), name

    def finish(self, tensors: OrderedDict[str, Value], beside: dict[Value, Value]) -> Checkpoint:
        """The checkpoint of these tensors, and of what is said besides."""
        tree = plant_state_dict(tensors, beside, self.budget)
        machines = [file.saved.machine for file in self.opened]
        made = assemble(
            tree, self.place, self.budget, format=NAME, machines=machines, file=self.folder,
            findings=tuple(self.findings),
        )  # fmt: skip
        made.notes = _said_once(made.notes, made.root)
        return made


def _placed_in(file: File) -> Callable[[str, TensorStub], LazyTensor]:
    def place(name: str, stub: TensorStub) -> LazyTensor:
        with located(file.path):
            return file.saved.placer.place(name, stub)

    return place


def state_dict(module: Mapping[Value, Value], members: Mapping[Value, Value]) -> OrderedDict[str, Value]:
    """The members as a state_dict, with the module's versions."""
    made = StateOrderedDict(members)
    made.state = module.state if isinstance(module, StateOrderedDict) else None
    return made


def _said_once(notes: Notes, root: MetaNode) -> Notes:
    """The ranks name the same classes, and make objects of them that say nothing new; calls are all told."""
    told = {node.name for node in nodes_of(root, Opaque)}
    unseen = []
    for one in notes.unseen:
        if one.how in RUNS or one.name not in told:
            unseen.append(one)
        told.add(one.name)
    return replace(notes, globals=merge_uses(notes.globals), unseen=tuple(unseen))
