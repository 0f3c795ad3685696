"""Bookkeeping: what is known about a checkpoint besides its tensors and its metadata."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ckptconv.core.spelling import to_json
from ckptconv.core.strict_json import as_size, as_text

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping

    from ckptconv.core.metadata import MetaNode, Opaque
    from ckptconv.core.spelling import Json


@dataclass(frozen=True, slots=True)
class TensorNote:
    """Notes about one tensor: whether it was an ``nn.Parameter``, its ``requires_grad``, the device it was on."""

    parameter: bool = False
    requires_grad: bool = False
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class GlobalUse:
    """A name that a pickle mentions.

    called: whether loading the file with `pickle` would call it.
    known:  whether it is built here, or stands for a value. For any other name, `pickle` imports its module.
    """

    name: str
    called: bool
    known: bool = True


@dataclass(frozen=True, slots=True)
class Program:
    """Something in a file's metadata, or beside the file, that is imported or run when the model is loaded or used.

    where:   the path to it.
    node:    what is imported or called.
    by:      the library that does so.
    only_if: the option by which that library asks for consent, such as ``trust_remote_code=True``; "" if it does not.
    """

    where: str
    node: Opaque
    by: str
    only_if: str = ""


@dataclass(frozen=True, slots=True)
class MemberNote:
    """A member of the archive that a checkpoint lies in.

    use: what it became in the checkpoint: "model", "extras" or "metadata"; "" if it stays in the archive.
    """

    name: str
    nbytes: int
    use: str


WITH_SCALES = "integers with scales"
"""The usual name for the schemes by which graphs compute weights."""


VALUES = "values"
"""The role of the part that holds a weight's integers, or codes."""

UNREAD = "unread"
"""The scheme of a weight that is known to be quantized and is not read; its details say `why`."""

BY_KERAS = "Keras'"
"""How the usual names of Keras' schemes begin."""

SCHEMES = frozenset(("affine", "keras", "nbits", "sparse", "torchao", UNREAD))
PARTS = frozenset([
    VALUES, "scale", "zero_point", "factor", "codebook", "mask", "axis", "shape", "pairs", "shard_2", "shard_3",
    "g_idx",
])  # fmt: skip


def _require_true(value: Json) -> bool:
    if value is not True:
        raise ValueError(f"{value!r} is not true")
    return True


def _sizes(value: Json) -> Json:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list of sizes")
    return [as_size(one) for one in value]


_DETAILS: Mapping[str, Callable[[Json], Json]] = {
    **dict.fromkeys(("axis", "block", "bits", "rows", "columns", "middle"), as_size),
    **dict.fromkeys(("shape", "size", "counts"), _sizes),
    **dict.fromkeys(("codes", "computed", "form", "why"), as_text),
    **dict.fromkeys(("inverse", "swizzled", "each"), _require_true),
}  # fmt: skip
"""Further details of a scheme, and how each is read from a record."""


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """A weight that a graph computes from several tensors, or that is of a class which holds them.

    name:            the weight's name.
    scheme, details: how it is computed, as in an edit of kind "dequantize".
    parts:           the names of the tensors by role; the first has the integers.
    called:          the usual name of the scheme.
    """

    name: str
    scheme: str
    parts: Mapping[str, str]
    details: Mapping[str, Json]
    called: str

    @property
    def values(self) -> str:
        """The name of its integers."""
        return next(iter(self.parts.values()))

    @property
    def by_keras(self) -> bool:
        """Whether Keras quantized it: then a file of Keras' shows it by itself."""
        return self.called.startswith(BY_KERAS)

    def to_dict(self) -> dict[str, Json]:
        """The weight as ``inspect --json`` prints it."""
        return {"name": self.name, "scheme": self.scheme, "parts": dict(self.parts), **self.details}

    def recorded(self) -> dict[str, Json]:
        """The weight as a record spells it."""
        return {**self.to_dict(), "called": self.called}

    @classmethod
    def of_record(cls, entry: Mapping[str, Json]) -> QuantizedWeight:
        """The weight that `recorded` spelled. Raises ValueError, TypeError, KeyError or AttributeError for others."""
        left = dict(entry)
        name, scheme, called = (as_text(left.pop(key)) for key in ("name", "scheme", "called"))
        named_parts: Any = left.pop("parts")
        parts = {as_text(role): as_text(part) for role, part in named_parts.items()}
        if scheme not in SCHEMES or VALUES not in parts or not parts.keys() <= PARTS:
            raise ValueError(f"{name!r} is computed of its parts in no way that is known")
        details = {key: _DETAILS[key](value) for key, value in left.items()}
        return cls(name, scheme, {VALUES: parts.pop(VALUES), **parts}, details, called)

    def renamed(self, names: Mapping[str, str]) -> QuantizedWeight | None:
        """The weight with its parts under new names; None if a part has no new name."""
        parts = {role: names[part] for role, part in self.parts.items() if part in names}
        if len(parts) < len(self.parts):
            return None
        if parts == self.parts:
            return replace(self, parts=parts)
        suffix = self.values.removeprefix(self.name)  # such as "_quantized"
        has_suffix = len(suffix) < len(self.values)
        return replace(self, parts=parts, name=parts[VALUES].removesuffix(suffix) if has_suffix else self.name)


@dataclass(frozen=True, slots=True)
class Notes:
    """Bookkeeping. The target keeps it if it can, `inspect` shows it; it is never part of digest, equality or diff.

    source:     the format that the values first came from.
    tensors:    notes about single tensors, by name.
    strides:    strides in elements, of tensors that were not C-contiguous.
    attributes: Python attributes that were set on a tensor, by its name.
    versions:   module versions (``_metadata``) of state_dicts that are not a `StateDict` in the tree, such as that of
                an average, or an empty one; by the path to each.
    globals:    the names that the pickle mentions.
    unseen:     objects and calls of the pickle that are not in the tree: dropped, overwritten, or attributes.
    programs:   what other libraries would import or run of the metadata when they use the model.
    arch:       the architecture spec's name and params.
    digest:     the content digest that the file records, unchecked.
    graph:      what the file says about the graph around its weights: its maker, operators, inputs and outputs.
    quantized:  weights that the graph computes from several tensors.
    between:    names of tensors by which the graph quantizes activations between layers.
    types:      by top-level key of the metadata, the format's own type if Python's is less specific: ``"uint16"``,
                ``"float64[]"`` (an array).
    members:    the members of the archive that the checkpoint lies in.
    """

    source: str = ""
    tensors: Mapping[str, TensorNote] = field(default_factory=dict)
    strides: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    attributes: Mapping[str, MetaNode] = field(default_factory=dict)
    versions: Mapping[tuple[str | int, ...], MetaNode] = field(default_factory=dict)
    globals: tuple[GlobalUse, ...] = ()
    unseen: tuple[Opaque, ...] = ()
    programs: tuple[Program, ...] = ()
    arch: MetaNode = None
    digest: str | None = None
    graph: MetaNode = None
    quantized: tuple[QuantizedWeight, ...] = ()
    between: tuple[str, ...] = ()
    types: Mapping[str, str] = field(default_factory=dict)
    members: tuple[MemberNote, ...] = ()

    @property
    def parameters(self) -> list[str]:
        """The tensors that were an ``nn.Parameter``."""
        return [name for name, note in self.tensors.items() if note.parameter]

    @property
    def requires_grad(self) -> list[str]:
        """The tensors with ``requires_grad``."""
        return [name for name, note in self.tensors.items() if note.requires_grad]

    @property
    def devices(self) -> dict[str, str]:
        """The devices of the tensors that were not on the CPU."""
        return {name: note.device for name, note in self.tensors.items() if note.device != "cpu"}

    def only(self, names: Container[str]) -> Notes:
        """The notes without those about other tensors than `names`."""
        return replace(
            self,
            tensors={name: note for name, note in self.tensors.items() if name in names},
            strides={name: strides for name, strides in self.strides.items() if name in names},
            attributes={name: node for name, node in self.attributes.items() if name in names},
            quantized=tuple(one for one in self.quantized if all(part in names for part in one.parts.values())),
            between=tuple(name for name in self.between if name in names),
        )

    def to_dict(self) -> dict[str, Json]:
        """The notes as `inspect --json` shows them."""
        document: dict[str, Json] = {
            "source": self.source,
            "parameters": self.parameters,
            "requires_grad": self.requires_grad,
            "devices": self.devices,
            "strides": {name: list(strides) for name, strides in self.strides.items()},
            "attributes": {name: to_json(node) for name, node in self.attributes.items()},
            "versions": [[list(path), to_json(node)] for path, node in self.versions.items()],
            "arch": to_json(self.arch),
            "digest": self.digest,
            "graph": to_json(self.graph),
            "quantized": [one.to_dict() for one in self.quantized],
            "types": dict(self.types),
            "members": [{"name": one.name, "nbytes": one.nbytes, "use": one.use} for one in self.members],
        }
        return {key: value for key, value in document.items() if value not in (None, "", [], {})}
