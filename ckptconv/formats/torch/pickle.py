"""A machine for pickles that builds data and never calls anything that the file names.

A pickle is a program for a stack machine (opcodes: CPython's ``pickletools``). This one follows it to its end and
builds only what is listed here: Python's own containers and numbers, and whatever a `Constructors` table of *ours*
answers for an exact (module, name) pair. All else becomes a `Thing`: the class's name, the arguments and the state, as
data. Nothing is ever imported because a file says so.

Memory and time are linear in the pickle's length: the memo is a dict (its indices may be huge), and constructors are
charged for what they copy.

Refused: opcodes that need a registry or buffers outside of the file (EXT, NEXT_BUFFER), bytes after STOP.
"""

from __future__ import annotations

from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from dataclasses import dataclass, field
from struct import unpack_from
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from ckptconv.errors import CorruptFileError, LimitError
from ckptconv.io.limits import FREE_NODES, MAX_DEPTH, MAX_INT_DIGITS, MAX_NODES, NODES_A_BYTE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ckptconv.core.metadata import How

Value = Any  # what is on the stack: whatever the pickle made


@dataclass(frozen=True, slots=True)
class Global:
    """A name that the pickle mentions."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class StateOrderedDict(OrderedDict[Value, Value]):
    """An OrderedDict that may have been given attributes, as ``state_dict()`` gives ``_metadata``."""

    state: Value = None


@dataclass(slots=True, eq=False)
class Thing:
    """An object that was not built. `how` as in `ckptconv.core.metadata.Opaque`."""

    name: str
    how: How
    args: tuple[Value, ...] = ()
    kwargs: dict[str, Value] = field(default_factory=dict)
    state: Value = None
    items: list[Value] = field(default_factory=list)
    pairs: list[tuple[Value, Value]] = field(default_factory=list)


class Constructors(Protocol):
    """What a pickle may build: ours, by exact name."""

    def value(self, name: Global) -> Value:
        """What a name that is only mentioned stands for; the Global itself where it is not known."""

    def constructor(self, name: Global) -> Callable[..., Value] | None:
        """Our constructor for a name, where there is one; its result may be NotImplemented, for "not with these"."""

    def is_harmless(self, name: Global, args: tuple[Value, ...]) -> bool:
        """Whether a call of `name` only makes a plain value, so that it is worth no alarm."""

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


_SIZED = (list, tuple, dict, set, frozenset, str, bytes)


class Machine:
    """One run over one pickle. `globals` holds each name that was mentioned, and whether it was called."""

    def __init__(self, data: bytes, constructors: Constructors) -> None:
        self._data = data
        self._size = len(data)
        self._pos = 0
        self._stack: list[Value] = []
        self._marks: list[list[Value]] = []
        self._memo: dict[int, Value] = {}
        self._protocol = 0
        self._make = constructors
        self._known: dict[tuple[str, str], Value] = {}  # keeps every Global alive, so that identities stay
        self._constructors: dict[int, Callable[..., Value] | None] = {}
        self._charge = Budget(len(data)).take
        self.globals: dict[Global, bool] = {}

    def run(self) -> Value:
        """Follow the pickle to its STOP and give what it left. Raises CorruptFileError, LimitError."""
        try:
            self._loop()
            result = self._stack.pop()
        except (IndexError, KeyError, TypeError, ValueError, UnicodeError, OverflowError, AttributeError) as error:
            raise self._bad(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__) from error
        if self._stack or self._marks:
            raise self._bad("values are left on the stack")
        if self._pos != self._size:
            raise self._bad(f"{self._size - self._pos} bytes follow its end")
        return result

    def _loop(self) -> None:
        """Dispatch by table; the seven opcodes that make up two thirds of a torch pickle are followed in place."""
        data, memo = self._data, self._memo
        handlers = [getattr(self, f"_op_{name}") if name else self._unknown for name in _OPCODES]
        stack, pos = self._stack, 0
        while True:
            opcode = data[pos]
            pos += 1
            if opcode == 0x72:  # LONG_BINPUT; an index that is cut short is noticed at the next opcode
                memo[int.from_bytes(data[pos : pos + 4], "little")] = stack[-1]
                pos += 4
            elif opcode == 0x71:  # BINPUT
                memo[data[pos]] = stack[-1]
                pos += 1
            elif opcode == 0x68:  # BINGET
                stack.append(memo[data[pos]])
                pos += 1
            elif opcode == 0x6A:  # LONG_BINGET
                stack.append(memo[int.from_bytes(data[pos : pos + 4], "little")])
                pos += 4
            elif opcode == 0x4B:  # BININT1
                stack.append(data[pos])
                pos += 1
            elif opcode == 0x28:  # MARK
                self._marks.append(stack)
                stack = self._stack = []
            elif opcode == 0x2E:  # STOP
                self._pos = pos
                return
            else:
                self._pos = pos
                handlers[opcode]()
                stack, pos = self._stack, self._pos

    def _bad(self, why: str) -> CorruptFileError:
        return CorruptFileError(
            f"the pickle cannot be followed at byte {self._pos}: {why}", hint="copy the file again from where it came"
        )

    def _unknown(self) -> NoReturn:
        opcode = self._data[self._pos - 1]
        raise self._bad(f"opcode {bytes([opcode])!r} is none, or needs what is not in the file")

    def _check_keys(self, keys: Iterable[Value]) -> None:
        """Bound tuples before they are hashed: that recurses in C without a check, and anew for every shared part."""
        waiting = [(key, 1) for key in keys if type(key) is tuple]
        while waiting:
            items, depth = waiting.pop()
            if depth > MAX_DEPTH:
                raise LimitError(f"a key is nested deeper than {MAX_DEPTH} levels", hint="do not trust it")
            self._charge(len(items))
            waiting += [(item, depth + 1) for item in items if type(item) is tuple]

    # Bytes of the program

    def _take(self, count: int) -> bytes:
        end = self._pos + count
        if count < 0 or end > self._size:
            raise self._bad(f"{count} bytes are asked for, {self._size - self._pos} are left")
        piece = self._data[self._pos : end]
        self._pos = end
        return piece

    def _line(self) -> bytes:
        end = self._data.find(b"\n", self._pos)
        if end < 0:
            raise self._bad("a line has no end")
        piece = self._data[self._pos : end]
        self._pos = end + 1
        return piece

    def _uint(self, width: int) -> int:
        return int.from_bytes(self._take(width), "little")

    def _decimal(self, text: bytes) -> int:
        if len(text) > MAX_INT_DIGITS:
            raise self._bad("an int has too many decimal digits")
        return int(text)

    def _pop_mark(self) -> list[Value]:
        items = self._stack
        self._stack = self._marks.pop()
        return items

    # Stack and memo

    def _op_POP(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._pop_mark()

    def _op_POP_MARK(self) -> None:
        self._pop_mark()

    def _op_DUP(self) -> None:
        self._stack.append(self._stack[-1])

    def _op_PUT(self) -> None:
        self._memo[self._decimal(self._line())] = self._stack[-1]

    def _op_MEMOIZE(self) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _op_GET(self) -> None:
        self._stack.append(self._memo[self._decimal(self._line())])

    def _op_PROTO(self) -> None:
        self._protocol = self._uint(1)
        if self._protocol > 5:
            raise self._bad(f"protocol {self._protocol} is not known")

    def _op_FRAME(self) -> None:
        if self._uint(8) > self._size - self._pos:
            raise self._bad("a frame is longer than the pickle")

    # Plain values

    def _op_NONE(self) -> None:
        self._stack.append(None)

    def _op_NEWTRUE(self) -> None:
        self._stack.append(True)

    def _op_NEWFALSE(self) -> None:
        self._stack.append(False)

    def _op_INT(self) -> None:
        text = self._line()
        self._stack.append({b"00": False, b"01": True}[text] if text in (b"00", b"01") else self._decimal(text))

    def _op_LONG(self) -> None:
        self._stack.append(self._decimal(self._line().removesuffix(b"L")))

    def _op_BININT(self) -> None:
        self._stack.append(int.from_bytes(self._take(4), "little", signed=True))

    def _op_BININT2(self) -> None:
        self._stack.append(self._uint(2))

    def _op_LONG1(self) -> None:
        self._stack.append(int.from_bytes(self._take(self._uint(1)), "little", signed=True))

    def _op_LONG4(self) -> None:
        self._stack.append(int.from_bytes(self._take(self._uint(4)), "little", signed=True))

    def _op_FLOAT(self) -> None:
        self._stack.append(float(self._line()))

    def _op_BINFLOAT(self) -> None:
        self._stack.append(unpack_from(">d", self._take(8))[0])

    def _text(self, raw: bytes) -> None:
        self._stack.append(str(raw, "utf-8", "surrogatepass"))

    def _op_UNICODE(self) -> None:
        self._stack.append(str(self._line(), "raw-unicode-escape"))

    def _op_BINUNICODE(self) -> None:
        start = self._pos + 4
        end = start + int.from_bytes(self._data[self._pos : start], "little")
        if end > self._size:
            raise self._bad("a string is longer than the pickle")
        self._pos = end
        self._stack.append(str(self._data[start:end], "utf-8", "surrogatepass"))

    def _op_SHORT_BINUNICODE(self) -> None:
        self._text(self._take(self._uint(1)))

    def _op_BINUNICODE8(self) -> None:
        self._text(self._take(self._uint(8)))

    def _python2_string(self, raw: bytes) -> None:
        """Python 2's str: text where it is UTF-8, as torch reads it, else bytes."""
        try:
            self._stack.append(str(raw, "utf-8"))
        except UnicodeDecodeError:
            self._stack.append(raw)

    def _op_STRING(self) -> None:
        from ast import literal_eval

        line = self._line().strip()
        if len(line) < 2 or line[:1] not in b"\"'" or line[:1] != line[-1:]:
            raise self._bad("a string is not in quotes")
        self._python2_string(literal_eval("b" + line.decode("ascii")))

    def _op_BINSTRING(self) -> None:
        self._python2_string(self._take(self._uint(4)))

    def _op_SHORT_BINSTRING(self) -> None:
        self._python2_string(self._take(self._uint(1)))

    def _op_BINBYTES(self) -> None:
        self._stack.append(self._take(self._uint(4)))

    def _op_SHORT_BINBYTES(self) -> None:
        self._stack.append(self._take(self._uint(1)))

    def _op_BINBYTES8(self) -> None:
        self._stack.append(self._take(self._uint(8)))

    def _op_BYTEARRAY8(self) -> None:
        self._stack.append(bytearray(self._take(self._uint(8))))

    # Containers

    def _op_EMPTY_TUPLE(self) -> None:
        self._stack.append(())

    def _op_TUPLE(self) -> None:
        items = tuple(self._pop_mark())
        self._stack.append(items)

    def _op_TUPLE1(self) -> None:
        self._stack[-1] = (self._stack[-1],)

    def _op_TUPLE2(self) -> None:
        last = self._stack.pop()
        self._stack[-1] = (self._stack[-1], last)

    def _op_TUPLE3(self) -> None:
        last = self._stack.pop()
        middle = self._stack.pop()
        self._stack[-1] = (self._stack[-1], middle, last)

    def _op_EMPTY_LIST(self) -> None:
        self._stack.append([])

    def _op_LIST(self) -> None:
        items = self._pop_mark()
        self._stack.append(items)

    def _op_EMPTY_DICT(self) -> None:
        self._stack.append({})

    def _op_DICT(self) -> None:
        items = self._pop_mark()
        self._check_keys(items[::2])
        self._stack.append(dict(zip(items[::2], items[1::2], strict=True)))

    def _op_EMPTY_SET(self) -> None:
        self._stack.append(set())

    def _op_FROZENSET(self) -> None:
        items = self._pop_mark()
        self._check_keys(items)
        self._stack.append(frozenset(items))

    def _op_APPEND(self) -> None:
        item = self._stack.pop()
        self._extend([item])

    def _op_APPENDS(self) -> None:
        self._extend(self._pop_mark())

    def _extend(self, items: list[Value]) -> None:
        match self._stack[-1]:
            case list() as target:
                target.extend(items)
            case Thing() as target:
                target.items.extend(items)
            case other:
                raise self._bad(f"items are appended to a {type(other).__name__}")

    def _op_SETITEM(self) -> None:
        value = self._stack.pop()
        key = self._stack.pop()
        self._update([key, value])

    def _op_SETITEMS(self) -> None:
        self._update(self._pop_mark())

    def _update(self, flat: list[Value]) -> None:
        self._check_keys(flat[::2])
        pairs = zip(flat[::2], flat[1::2], strict=True)
        match self._stack[-1]:
            case dict() as target:
                target.update(pairs)
            case Thing() as target:
                target.pairs.extend(pairs)
            case other:
                raise self._bad(f"keys are set on a {type(other).__name__}")

    def _op_ADDITEMS(self) -> None:
        items = self._pop_mark()
        self._check_keys(items)
        match self._stack[-1]:
            case set() as target:
                target.update(items)
            case Thing() as target:
                target.items.extend(items)
            case other:
                raise self._bad(f"items are added to a {type(other).__name__}")

    # Names, and what would be calls

    def _name(self, module: str, name: str) -> None:
        known = self._known.get((module, name))
        if known is None:
            known = self._known[module, name] = self._lookup(module, name)
        self._stack.append(known)

    def _lookup(self, module: str, name: str) -> Value:
        if self._protocol < 3:  # what Python 2 called them, as every unpickler translates
            if (module, name) in NAME_MAPPING:
                module, name = NAME_MAPPING[module, name]
            elif module in IMPORT_MAPPING:
                module = IMPORT_MAPPING[module]
        named = Global(module, name)
        self.globals.setdefault(named, False)
        return self._make.value(named)

    def _op_GLOBAL(self) -> None:
        module = self._line().decode("utf-8")
        self._name(module, self._line().decode("utf-8"))

    def _op_STACK_GLOBAL(self) -> None:
        name = self._stack.pop()
        module = self._stack.pop()
        if type(module) is not str or type(name) is not str:
            raise self._bad("a global's name is no string")
        self._name(module, name)

    def _op_REDUCE(self) -> None:
        args = self._stack.pop()
        function = self._stack.pop()
        if type(args) is not tuple:
            raise self._bad("the arguments of a call are no tuple")
        self._stack.append(self._call(function, args))

    def _call(self, function: Value, args: tuple[Value, ...]) -> Value:
        if type(function) is not Global:
            # calling something that was itself computed: getattr(x, "system")(…)
            return Thing(_described(function), "called", args)
        constructor = self._constructor(function)
        if function.module != "torch._utils":  # tensors copy nothing, and there may be a million of them
            self._charge(sum(len(arg) for arg in args if isinstance(arg, _SIZED)))
            for arg in args:
                if isinstance(arg, (list, tuple)):
                    self._check_keys(arg)
        made = constructor(*args) if constructor else NotImplemented
        if made is not NotImplemented:
            return made
        if function == Global("copyreg", "_reconstructor") and args and type(args[0]) is Global:
            return Thing(str(args[0]), "object")
        return Thing(str(function), "constructed" if self._make.is_harmless(function, args) else "called", args)

    def _constructor(self, function: Global) -> Callable[..., Value] | None:
        """Remembered by identity, since hashing the name a hundred thousand times is felt."""
        try:
            return self._constructors[id(function)]
        except KeyError:
            self.globals[function] = True
            return self._constructors.setdefault(id(function), self._make.constructor(function))

    def _op_NEWOBJ(self) -> None:
        args = self._stack.pop()
        self._new(self._stack.pop(), args, {})

    def _op_NEWOBJ_EX(self) -> None:
        kwargs = self._stack.pop()
        args = self._stack.pop()
        self._new(self._stack.pop(), args, kwargs)

    def _new(self, cls: Value, args: Value, kwargs: Value) -> None:
        if type(args) is not tuple or type(kwargs) is not dict:
            raise self._bad("the arguments of a new object are no tuple and dict")
        if type(cls) is not Global:
            self._stack.append(Thing(_described(cls), "called", args, kwargs))
            return
        constructor = None if kwargs else self._make.constructor(cls)
        made = constructor(*args) if constructor else NotImplemented
        self._stack.append(Thing(str(cls), "object", args, kwargs) if made is NotImplemented else made)

    def _op_INST(self) -> None:
        module = self._line().decode("utf-8")
        name = self._line().decode("utf-8")
        args = tuple(self._pop_mark())
        self._name(module, name)
        self._stack.append(self._call(self._stack.pop(), args))

    def _op_OBJ(self) -> None:
        cls, *args = self._pop_mark()
        self._stack.append(self._call(cls, tuple(args)))

    def _op_BUILD(self) -> None:
        state = self._stack.pop()
        instance = self._stack[-1]
        if isinstance(instance, (StateOrderedDict, Thing)):
            instance.state = state
        elif not self._make.build(instance, state):
            raise self._bad(f"a {type(instance).__name__} is given a state")

    def _op_PERSID(self) -> None:
        self._stack.append(self._make.persistent(self._line().decode("ascii")))

    def _op_BINPERSID(self) -> None:
        self._stack.append(self._make.persistent(self._stack.pop()))


def _described(function: Value) -> str:
    """What to call something that was computed and is then called: never its whole value."""
    return function.name if isinstance(function, Thing) else f"a {type(function).__name__}"


def _opcode_names() -> list[str]:
    """Opcode name by byte, "" where there is none, or where it is followed in the loop itself."""
    codes = (
        "0 POP|1 POP_MARK|2 DUP|p PUT|\x94 MEMOIZE|g GET|"
        "\x80 PROTO|\x95 FRAME|N NONE|\x88 NEWTRUE|\x89 NEWFALSE|I INT|L LONG|J BININT|M BININT2|"
        "\x8a LONG1|\x8b LONG4|F FLOAT|G BINFLOAT|V UNICODE|X BINUNICODE|\x8c SHORT_BINUNICODE|\x8d BINUNICODE8|"
        "S STRING|T BINSTRING|U SHORT_BINSTRING|B BINBYTES|C SHORT_BINBYTES|\x8e BINBYTES8|\x96 BYTEARRAY8|"
        ") EMPTY_TUPLE|t TUPLE|\x85 TUPLE1|\x86 TUPLE2|\x87 TUPLE3|] EMPTY_LIST|l LIST|} EMPTY_DICT|d DICT|"
        "\x8f EMPTY_SET|\x91 FROZENSET|a APPEND|e APPENDS|s SETITEM|u SETITEMS|\x90 ADDITEMS|c GLOBAL|"
        "\x93 STACK_GLOBAL|R REDUCE|\x81 NEWOBJ|\x92 NEWOBJ_EX|i INST|o OBJ|b BUILD|P PERSID|Q BINPERSID"
    )
    names = [""] * 256
    for entry in codes.split("|"):
        code, name = entry.split(" ")
        names[ord(code)] = name
    return names


_OPCODES = _opcode_names()
