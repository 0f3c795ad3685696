"""What a pickle is turned into where it is not plain data, and who decides what may be built."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self

from ckptconv.errors import LimitError
from ckptconv.io.limits import FREE_NODES, MAX_NODES, MAX_STORED_BYTES, NODES_A_BYTE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from ckptconv.core.metadata import How
    from ckptconv.core.tensor import ByteSpan

Value = Any  # what is on the stack: whatever the pickle made


@dataclass(frozen=True, slots=True)
class Global:
    """A name that the pickle mentions."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


def attributes_among(methods: frozenset[str], state: Value) -> frozenset[str]:
    """Those of `methods` that an object has as attributes of its own once it is given a state, in any of its forms."""
    keys: list[Value] = []
    for part in state if isinstance(state, tuple) and len(state) == 2 else (state,):
        if isinstance(part, dict):
            keys += part
        elif isinstance(part, Thing):  # a dict of some class
            keys += [key for key, _ in part.pairs]
    if any(isinstance(key, Thing) for key in keys):  # a string of some class may be equal to any other
        return methods
    return methods.intersection(key for key in keys if type(key) is str)


def answers_unasked(state: Value) -> bool:
    """Whether an object of this state calls what the pickle gave it when it is written as text (argparse.Namespace), or
    handed to a function of torch, numpy or others who look their protocols up in the object (``__torch_function__``).
    """
    pair = isinstance(state, tuple) and len(state) == 2
    for part in state if pair else (state,):
        pairs = part.pairs if isinstance(part, Thing) else part.items() if isinstance(part, dict) else ()
        if any(isinstance(value, (Global, Thing)) and _is_asked_for(key) for key, value in pairs):
            return True
        if isinstance(part, Thing) and attributes_among(_ASKED_OF_STATES, part.state):
            return True
    return pair and bool(attributes_among(_SET_BY_SLOTS, state[1]))


def _is_asked_for(key: Value) -> bool:
    if not isinstance(key, str):
        return isinstance(key, Thing) and key.how == "object"  # a string of some class
    return key in _ASKED_AS_TEXT or (key[:2] == "__" == key[-2:] and not key.startswith(_KEPT_BY_PYTHON))


_ASKED_AS_TEXT = ("_get_args", "_get_kwargs")
_KEPT_BY_PYTHON = ("__dict__", "__objclass__", "__orig_class__", "__pydantic", "__signature__", "__wrapped__")
"""What Python itself and pydantic put there."""

_ASKED_OF_STATES = frozenset(["items", "keys"])
"""What pickle.py, and many a ``__setstate__``, calls of a state."""

_SET_BY_SLOTS = frozenset(["__class__", "__dict__"])
"""Attributes that the second half of a state changes, which is set with ``setattr``: it is another object then."""


class StateOrderedDict(OrderedDict[Value, Value]):
    """An OrderedDict that may have been given attributes, as ``state_dict()`` gives ``_metadata``."""

    state: Value = None


OWN = frozenset([*dir(OrderedDict), "__setstate__"])
"""What is called of an OrderedDict (``keys``, by Counter): no honest attribute of one has such a name."""


@dataclass(slots=True, eq=False)
class Thing:
    """An object that was not built. `how` as in `ckptconv.core.metadata.Opaque`; `given` whether it has had a state."""

    name: str
    how: How
    args: tuple[Value, ...] = ()
    kwargs: dict[str, Value] = field(default_factory=dict)
    state: Value = None
    items: list[Value] = field(default_factory=list)
    pairs: list[tuple[Value, Value]] = field(default_factory=list)
    given: bool = False

    def note_change(self) -> None:
        """Note that the pickle changes it: what may do as a call does, where the pickle gave it a state before. Methods
        are looked up in the object (Python's Modules/_pickle.c: load_build, load_additems, do_append), or work with its
        attributes, which may be anyone's by then. No honest pickle gives a state before all the items. What the pickle
        fetched was there before (``sys.path``, a module).
        """
        if self.given or (self.how == "constructed" and self.name in _FETCHED):
            self.how = "called"

    def set_state(self, state: Value) -> None:
        """What BUILD does to it."""
        self.note_change()
        if answers_unasked(state):
            self.how = "called"
        self.state = state
        self.given = True


_FETCHED = (
    "builtins.getattr", "_operator.getitem", "operator.getitem", "logging.getLogger", "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
)  # fmt: skip
"""Harmless calls that make nothing new; numpy's ``scalar`` of objects gives back the one that it is handed."""


class Elided(bytes):
    """A long run of bytes that was left in its file, as `PickleStream.elided` does: empty, and `span` says where it is.

    opcode: the one that pushes it.
    """

    span: ByteSpan
    opcode: int

    def __new__(cls, span: ByteSpan, opcode: int) -> Self:
        """Of no bytes."""
        made = super().__new__(cls)
        made.span, made.opcode = span, opcode
        return made

    def whole(self) -> bytes | bytearray | str:
        """The value that the opcode pushes. Reads it. Raises LimitError past `MAX_STORED_BYTES`."""
        if self.span.length > MAX_STORED_BYTES:
            raise LimitError(f"it holds {self.span.length:,} bytes that are no tensor", hint="do not trust it")
        data = bytes(self.span.file.read_at(self.span.offset, self.span.length))
        if self.opcode == ord("T"):
            return python2_string(data)
        return bytearray(data) if self.opcode == 0x96 else data

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


def python2_string(raw: bytes) -> str | bytes:
    """Python 2's str: text where it is UTF-8, as torch reads it, else bytes."""
    try:
        return str(raw, "utf-8")
    except UnicodeDecodeError:
        return raw


class Constructors(Protocol):
    """What a pickle may build: ours, by exact name."""

    def value(self, name: Global) -> Value:
        """What a name that is only mentioned stands for; the Global itself where it is not known."""

    def constructor(self, name: Global) -> Callable[..., Value] | None:
        """Our constructor for a name, where there is one; its result may be NotImplemented, for "not with these"."""

    def is_harmless(self, name: Global, args: tuple[Value, ...]) -> bool:
        """Whether a call of `name` only makes a plain value, so that it is worth no alarm."""

    def only_makes(self, cls: Global, args: tuple[Value, ...], kwargs: dict[str, Value]) -> bool:
        """Whether a new object of a class is made and nothing else."""

    def only_reconstructs(self, args: tuple[Value, ...]) -> bool:
        """The same of ``copyreg._reconstructor``."""

    def only_keeps(self, cls: str, state: Value) -> bool:
        """Whether an object of a class keeps a state, and asks nothing of what is in it, then or later."""

    def only_hashes(self, key: Value) -> bool:
        """Whether something that was not built may be a key: it is hashed, and compared with others."""

    def counts_when_named(self, name: Global) -> bool:
        """Whether it is enough to mention a name, called or not."""

    def handed(self, names: Collection[Global], values: Iterable[Value]) -> str | None:
        """Of names that do not count when they are named, one that is in the values all the same, or was changed."""

    def build(self, instance: Value, state: Value) -> bool:
        """Give `instance` its state; False where it is none of ours."""

    def persistent(self, identifier: Value) -> Value:
        """What a persistent id stands for."""


class Budget:
    """How many values a pickle of `size` bytes may come to: a short one can ask for one list a million times."""

    def __init__(self, size: int) -> None:
        self._most = self._left = min(MAX_NODES, FREE_NODES + NODES_A_BYTE * size)

    def take(self, count: int) -> None:
        """Count values. Raises LimitError once there are too many."""
        self._left -= count
        if self._left < 0:
            raise LimitError(f"the pickle comes to more than {self._most:,} values", hint="do not trust it")
