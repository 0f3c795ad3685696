"""Which names in a pickle are no news: those that are built here, and those that stand for a value or a class of torch.

Any other name makes `pickle` import its module, which runs that module's code, called or not.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.core.metadata import FACTORIES
from ckptconv.core.notes import GlobalUse
from ckptconv.formats.torch import dtypes
from ckptconv.formats.torch.calls.capable import is_storage
from ckptconv.formats.torch.tree.roots import plant_unseen
from ckptconv.formats.torch.values.construct import CONSTRUCTORS
from ckptconv.formats.torch.values.dtensor import PARTS, is_part
from ckptconv.formats.torch.values.numpy_values import ELEMENT_CLASSES, MEMMAPS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ckptconv.core.notes import Notes
    from ckptconv.formats.torch.pickle import Budget, Global, Machine
    from ckptconv.formats.torch.tree.roots import Tree

_VALUES = frozenset([*dtypes.ALL_DTYPE_NAMES, *dtypes.QSCHEMES, *dtypes.MEMORY_FORMATS])
_CLASSES = frozenset(["torch.Tensor", "torch.nn.parameter.Parameter", "numpy.ndarray", "builtins.object"])


def is_known(name: Global) -> bool:
    """Whether naming it is what a file of plain tensors and values does."""
    if name in CONSTRUCTORS or any(str(name) in known for known in (_CLASSES, FACTORIES, ELEMENT_CLASSES, MEMMAPS)):
        return True
    if name.module == "torch" and name.name in _VALUES:
        return True
    return is_storage(name)


def no_name(name: str) -> bool:
    """For containers that have no names of their own."""
    return False


def told_once(uses: Iterable[GlobalUse]) -> tuple[GlobalUse, ...]:
    """The names that several pickles mention, each once."""
    found: dict[str, GlobalUse] = {}
    for use in uses:
        known = found.setdefault(use.name, use)
        found[use.name] = replace(known, called=known.called or use.called, known=known.known and use.known)
    return tuple(found.values())


def with_names(
    notes: Notes, machine: Machine, tree: Tree, budget: Budget, own: Callable[[str], bool] = no_name
) -> Notes:
    """The notes with what a finished machine has met besides the tree.

    own: whether a name is one that the container gives its own parts, so that it is no news.

    Raises LimitError, UnsupportedError.
    """
    uses = tuple(
        GlobalUse(str(name), called, is_known(name) or own(str(name)) or (str(name) in PARTS and not called))
        for name, called in machine.globals.items()
    )
    things = [thing for thing in machine.things if not own(thing.name) and not is_part(thing)]
    unseen = plant_unseen(tree, things, budget)
    return replace(notes, globals=(*notes.globals, *uses), unseen=(*notes.unseen, *unseen))
