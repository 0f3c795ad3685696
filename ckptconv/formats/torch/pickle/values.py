"""Stand-ins for what a pickle builds besides plain data, and the protocol that decides what may be built."""

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

Value = Any  # whatever a pickle can build


@dataclass(frozen=True, slots=True)
class Global:
    """A name that the pickle mentions."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


def attributes_among(methods: frozenset[str], state: Value) -> frozenset[str]:
    """Those of `methods` that an object gets as instance attributes from a state, in any of a state's forms."""
    keys: list[Value] = []
    for part in state if isinstance(state, tuple) and len(state) == 2 else (state,):
        if isinstance(part, dict):
            keys += part
        elif isinstance(part, UnbuiltObject):  # an instance of a dict subclass
            keys += [key for key, _ in part.pairs]
    if any(isinstance(key, UnbuiltObject) for key in keys):  # an instance of a str subclass may be equal to any string
        return methods
    return methods.intersection(key for key in keys if type(key) is str)


def has_implicit_calls(state: Value) -> bool:
    """Whether an object with this state implicitly calls what the pickle put there: when its repr is taken
    (argparse.Namespace), or when it is passed to torch, numpy or others that look up protocol methods in the object
    (``__torch_function__``).
    """
    is_pair = isinstance(state, tuple) and len(state) == 2
    for part in state if is_pair else (state,):
        if any(isinstance(value, (Global, UnbuiltObject)) and _is_implicit(key) for key, value in _pairs(part)):
            return True
        if isinstance(part, UnbuiltObject) and attributes_among(_CALLED_ON_STATES, part.state):
            return True
    return is_pair and bool(attributes_among(_IDENTITY, state[1]))


def _pairs(state: Value) -> Iterable[tuple[Value, Value]]:
    """The items of a state that is a dict, or an instance of a dict subclass."""
    match state:
        case UnbuiltObject():
            return state.pairs
        case dict():
            return state.items()
    return ()


def _is_implicit(key: Value) -> bool:
    """Whether Python or a library calls an attribute of this name without being told to."""
    if not isinstance(key, str):
        return isinstance(key, UnbuiltObject) and key.how == "object"  # an instance of a str subclass
    return key in _CALLED_BY_REPR or (key[:2] == "__" == key[-2:] and not key.startswith(_KEPT_BY_PYTHON))


_CALLED_BY_REPR = ("_get_args", "_get_kwargs")
_KEPT_BY_PYTHON = ("__dict__", "__objclass__", "__orig_class__", "__pydantic", "__signature__", "__wrapped__")
"""Attributes that Python itself and pydantic store."""

_CALLED_ON_STATES = frozenset(["items", "keys"])
"""Methods of a state that pickle.py, and many a ``__setstate__``, call."""

_IDENTITY = frozenset(["__class__", "__dict__"])
"""Attributes that make an object another one. The second half of a state can change them: it is set with ``setattr``.
"""


class StateOrderedDict(OrderedDict[Value, Value]):
    """An OrderedDict that may have attributes, such as the ``_metadata`` of a state_dict."""

    state: Value = None


OWN = frozenset([*dir(OrderedDict), "__setstate__"])
"""Methods of an OrderedDict, which others call (Counter calls ``keys``): no honest attribute has such a name."""


@dataclass(slots=True, eq=False)
class UnbuiltObject:
    """An object that was not built, as data: what the pickle would have called, and with what.

    how:   as in `ckptconv.core.metadata.Opaque`.
    given: whether it has been given a state.
    """

    name: str
    how: How
    args: tuple[Value, ...] = ()
    kwargs: dict[str, Value] = field(default_factory=dict)
    state: Value = None
    items: list[Value] = field(default_factory=list)
    pairs: list[tuple[Value, Value]] = field(default_factory=list)
    given: bool = False

    def note_change(self) -> None:
        """Record that the pickle changes the object. If it has been given a state before, that counts as a call: the
        unpickler looks methods up in the object (Python's Modules/_pickle.c: load_build, load_additems, do_append), and
        these use its attributes, which the pickle may have chosen. No honest pickle gives a state before all items. It
        also counts as a call if the pickle did not make the object but fetched it (``sys.path``, a module).
        """
        if self.given or (self.how == "constructed" and self.name in _FETCHED):
            self.how = "called"

    def set_state(self, state: Value) -> None:
        """Apply a BUILD opcode."""
        self.note_change()
        if has_implicit_calls(state):
            self.how = "called"
        self.state = state
        self.given = True


_FETCHED = (
    "builtins.getattr", "_operator.getitem", "operator.getitem", "logging.getLogger", "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
)  # fmt: skip
"""Harmless calls that return an existing object. numpy's ``scalar`` does so if its type is object."""


class Elided(bytes):
    """A long run of bytes that `PickleStream.elided` did not read. As a bytes object it is empty.

    span:   where the bytes are.
    opcode: the opcode that pushes them.
    """

    span: ByteSpan
    opcode: int

    def __new__(cls, span: ByteSpan, opcode: int) -> Self:
        """Create it, as an empty bytes object."""
        result = super().__new__(cls)
        result.span, result.opcode = span, opcode
        return result

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
    """A Python 2 str: text if it is valid UTF-8, as torch reads it, otherwise bytes."""
    try:
        return str(raw, "utf-8")
    except UnicodeDecodeError:
        return raw


class Constructors(Protocol):
    """What a pickle may build, by exact name, and how to judge what it may not."""

    def value(self, name: Global) -> Value:
        """The value of a name that is mentioned; the Global itself if it is not known."""

    def constructor(self, name: Global) -> Callable[..., Value] | None:
        """Our constructor for a name, if there is one. It may return NotImplemented for arguments that it rejects."""

    def is_harmless(self, name: Global, args: tuple[Value, ...]) -> bool:
        """Whether a call of `name` only makes a plain value, so that it need not be reported."""

    def only_makes(self, cls: Global, args: tuple[Value, ...], kwargs: dict[str, Value]) -> bool:
        """Whether ``cls.__new__`` with these arguments only creates an object and runs nothing else."""

    def only_reconstructs(self, args: tuple[Value, ...]) -> bool:
        """The same for ``copyreg._reconstructor``."""

    def only_keeps(self, cls: str, state: Value) -> bool:
        """Whether an object of a class only stores a state, and calls nothing in it, then or later."""

    def only_hashes(self, key: Value) -> bool:
        """Whether hashing an object that was not built, and comparing it with other keys, runs nothing else."""

    def counts_when_named(self, name: Global) -> bool:
        """Whether mentioning a name is enough to count as a call."""

    def handed(self, names: Collection[Global], values: Iterable[Value]) -> str | None:
        """A name that does not count when mentioned, but that is among the values, or was changed; None if none is."""

    def build(self, instance: Value, state: Value) -> bool:
        """Set the state of one of our objects; False if `instance` is not ours."""

    def persistent(self, identifier: Value) -> Value:
        """The object that a persistent id stands for."""


class Budget:
    """How many values a pickle of `size` bytes may expand to: a short one can repeat a list a million times."""

    def __init__(self, size: int) -> None:
        self._most = self._left = min(MAX_NODES, FREE_NODES + NODES_A_BYTE * size)

    def take(self, count: int) -> None:
        """Count values. Raises LimitError once there are too many."""
        self._left -= count
        if self._left < 0:
            raise LimitError(f"the pickle comes to more than {self._most:,} values", hint="do not trust it")
