"""Which names in a pickle need not be reported: those that are built here, and torch's values and tensor classes.

Any other name makes `pickle` import its module, which runs that module's code even if the name is never called.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.core.metadata import FACTORIES
from ckptconv.core.notes import GlobalUse
from ckptconv.formats.torch import dtypes
from ckptconv.formats.torch.calls.capable import is_storage
from ckptconv.formats.torch.tree.outside import unseen_objects
from ckptconv.formats.torch.values.construct import CONSTRUCTORS
from ckptconv.formats.torch.values.dtensor import PARTS, is_part
from ckptconv.formats.torch.values.numpy_values import ELEMENT_CLASSES, MEMMAPS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ckptconv.core.notes import Notes
    from ckptconv.formats.torch.pickle import Budget, Global, Machine
    from ckptconv.formats.torch.tree.build import Tree

_VALUES = frozenset([*dtypes.ALL_DTYPE_NAMES, *dtypes.QSCHEMES, *dtypes.MEMORY_FORMATS])
_CLASSES = frozenset(["torch.Tensor", "torch.nn.parameter.Parameter", "numpy.ndarray", "builtins.object"])


def is_known(name: Global) -> bool:
    """Whether a file of plain tensors and values mentions such a name."""
    if name in CONSTRUCTORS or any(str(name) in known for known in (_CLASSES, FACTORIES, ELEMENT_CLASSES, MEMMAPS)):
        return True
    if name.module == "torch" and name.name in _VALUES:
        return True
    return is_storage(name)


def no_name(name: str) -> bool:
    """The `own` of containers that have no names of their own."""
    return False


def merge_uses(uses: Iterable[GlobalUse]) -> tuple[GlobalUse, ...]:
    """The names in several pickles, each once: called if any pickle calls it, known if it is known in all."""
    merged: dict[str, GlobalUse] = {}
    for use in uses:
        other = merged.setdefault(use.name, use)
        merged[use.name] = replace(other, called=other.called or use.called, known=other.known and use.known)
    return tuple(merged.values())


def with_names(
    notes: Notes, machine: Machine, tree: Tree, budget: Budget, own: Callable[[str], bool] = no_name
) -> Notes:
    """The notes, with all names that a finished machine has met, and the unbuilt objects that are not in the tree.

    own: whether the container itself uses a name, so that it need not be reported.

    Raises LimitError, UnsupportedError.
    """
    uses = tuple(
        GlobalUse(str(name), called, is_known(name) or own(str(name)) or (str(name) in PARTS and not called))
        for name, called in machine.globals.items()
    )
    unbuilt = [obj for obj in machine.unbuilt if not own(obj.name) and not is_part(obj)]
    unseen = unseen_objects(tree, unbuilt, budget)
    return replace(notes, globals=(*notes.globals, *uses), unseen=(*notes.unseen, *unseen))
