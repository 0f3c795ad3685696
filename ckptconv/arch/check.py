"""Checks a checkpoint's tensors against a table, strictly.

The verdict is that of ``module.load_state_dict(state_dict, strict=True)`` (torch 2.13, ``torch/nn/modules/module.py``,
``Module._load_from_state_dict``) for the module that the table describes. There are two allowances: a tensor that is
absent because of a declared or recorded tie counts as present, and a dimension that the params leave open fits any
size. As in torch:

- a tensor of shape [1] fits a parameter of shape [] (files from before torch 0.4);
- ``num_batches_tracked`` may be absent if the module's recorded version is below 2 or there is none
  (``torch/nn/modules/batchnorm.py``, ``_NormBase._load_from_state_dict``).

Element types and broken ties are warnings, because torch casts and copies silently.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.report import Finding
from ckptconv.core.text import shape_text

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterator, Mapping

    from ckptconv.arch.table import Expected, Shape, Table
    from ckptconv.core.tensor import TensorInfo

BATCHES = "num_batches_tracked"
BATCHES_VERSION = 2
"""From this version of the batch-norm modules on, the buffer must be there."""


def check(
    table: Table,
    tensors: Mapping[str, TensorInfo],
    *,
    aliases: Mapping[str, Hashable] | None = None,
    recorded_ties: Mapping[str, str] | None = None,
    versions: object = None,
    plain: Collection[str] = (),
) -> list[Finding]:
    """Everything that does not fit, in the table's order, then what is unexpected, in the checkpoint's order.

    aliases:       name → storage, equal for names that share one; None if unknown: ties are not checked then.
    recorded_ties: names that the file left out because they are tied → the name that it kept.
    versions:      the state_dict's ``_metadata``: module path → ``{"version": n}``.
    plain:         names of entries of the state_dict that are not tensors.

    The checkpoint is valid if no finding has severity error. Takes O(tensors); reads no tensor.
    """
    return list(_Check(table, tensors, aliases, recorded_ties or {}, versions, plain).findings())


def fits(expected: Shape, found: tuple[int, ...]) -> bool:
    """Whether a tensor of shape `found` loads into a parameter of shape `expected`."""
    if expected == found or (expected == () and found == (1,)):
        return True
    return len(expected) == len(found) and all(
        wanted is None or wanted == size for wanted, size in zip(expected, found, strict=True)
    )


class _Check:
    def __init__(
        self,
        table: Table,
        tensors: Mapping[str, TensorInfo],
        aliases: Mapping[str, Hashable] | None,
        recorded: Mapping[str, str],
        versions: object,
        plain: Collection[str],
    ) -> None:
        self.table, self.tensors, self.aliases = table, tensors, aliases
        self.versions, self.plain = versions, plain
        self.groups = _tie_groups(table, recorded)

    def findings(self) -> Iterator[Finding]:
        yield from self.table.findings
        for name, expected in self.table.tensors.items():
            info = self.tensors.get(name)
            if info is not None:
                yield from self.compare(name, expected, info)
            elif name in self.plain:
                wanted = shape_text(expected.shape)
                message = f"{name}: expected a tensor of shape {wanted}, found a plain value"
                yield Finding("not-a-tensor", "error", name, message, wanted, "a plain value")
            elif not self.may_be_absent(name, expected):
                wanted = shape_text(expected.shape)
                yield Finding("missing-tensor", "error", name, f"{name} is missing (shape {wanted})", wanted)
        for name, info in self.tensors.items():
            if name not in self.table.tensors:
                found = shape_text(info.shape)
                yield Finding(
                    "unexpected-tensor",
                    "error",
                    name,
                    f"{name} is not in the architecture (shape {found})",
                    None,
                    found,
                )
        for name in self.plain:
            if name not in self.table.tensors:
                message = f"{name} is not in the architecture (a plain value)"
                yield Finding("unexpected-tensor", "error", name, message, None, "a plain value")

    def compare(self, name: str, expected: Expected, info: TensorInfo) -> Iterator[Finding]:
        if not fits(expected.shape, info.shape):
            wanted, found = shape_text(expected.shape), shape_text(info.shape)
            message = f"{name}: expected shape {wanted}, found {found}"
            yield Finding("shape-mismatch", "error", name, message, wanted, found)
        if expected.dtypes is not None and info.dtype.name not in expected.dtypes:
            wanted = _dtypes_text(expected.dtypes)
            message = f"{name}: expected {wanted}, found {info.dtype.name}"
            yield Finding("dtype-mismatch", "warning", name, message, wanted, info.dtype.name)
        other = expected.tied_to
        if self.aliases is None or other is None or expected.loose or other not in self.tensors:
            return
        if self.aliases.get(name) is None or self.aliases.get(name) != self.aliases.get(other):
            message = f"{name} should share its storage with {other}, but holds its own"
            yield Finding("tie-broken", "warning", name, message, f"tied to {other}", "its own storage")

    def may_be_absent(self, name: str, expected: Expected) -> bool:
        """Whether it is no error that a tensor is absent."""
        if expected.optional:
            return True
        if any(other in self.tensors for other in self.groups.get(name, ())):
            return True
        module, _, last = name.rpartition(".")
        return last == BATCHES and self.version(module) < BATCHES_VERSION

    def version(self, module: str) -> int:
        """The recorded version of a module; 0 if there is none."""
        versions = self.versions
        recorded = versions.get(module) if isinstance(versions, dict) else None
        version = recorded.get("version") if isinstance(recorded, dict) else None
        return version if isinstance(version, int) else 0


def _tie_groups(table: Table, recorded: Mapping[str, str]) -> dict[str, list[str]]:
    """Each tied name → all names of its tie."""
    groups: dict[str, list[str]] = {}
    declared = ((name, entry.tied_to) for name, entry in table.tensors.items() if entry.tied_to is not None)
    for name, other in (*declared, *recorded.items()):
        one, two = (groups.setdefault(member, [member]) for member in (name, other))
        if one is two:
            continue
        larger, smaller = (one, two) if len(one) >= len(two) else (two, one)  # so each name moves only a few times
        for member in smaller:
            groups[member] = larger
        end = len(larger) if larger is one else 0
        larger[end:end] = smaller
    return groups


def _dtypes_text(names: frozenset[str]) -> str:
    shown = sorted(names)
    return " or ".join(shown) if len(shown) <= 3 else f"one of {', '.join(shown)}"
