"""The machine: its main loop, and the opcodes that name globals and would call them."""

from __future__ import annotations

from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from typing import TYPE_CHECKING, NoReturn

from ckptconv.errors import LimitError
from ckptconv.formats.torch.pickle import idiom
from ckptconv.formats.torch.pickle.containers import Containers
from ckptconv.formats.torch.pickle.values import (
    OWN,
    Constructors,
    Elided,
    Global,
    StateOrderedDict,
    UnbuiltObject,
    Value,
    attributes_among,
    has_implicit_calls,
)
from ckptconv.io.limits import MAX_NAME

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterable, Sequence

    from ckptconv.core.metadata import How

_RECONSTRUCTOR = Global("copyreg", "_reconstructor")
_SETS = ("Counter", "OrderedDict", "frozenset", "set", "dict")
_SIZED = (list, tuple, dict, set, frozenset, str, bytes)


class Machine(Containers):
    """Runs one pickle, once.

    globals: each name that was mentioned, and whether it was called. unbuilt:  every object that was not built, in the
    order in which the pickle makes them, whether it keeps them or not.
    """

    def __init__(self, data: bytes, constructors: Constructors, elided: Sequence[Elided] = ()) -> None:
        super().__init__(data, elided)
        self._make = constructors
        self._known: dict[tuple[str, str, bool], Value] = {}  # keeps every Global alive, so that identities stay
        self._constructors: dict[int, Callable[..., Value] | None] = {}
        self._tuples: dict[bytes, tuple[int, ...]] = {}
        self._counting: list[Global] = []
        self.globals: dict[Global, bool] = {}
        self.unbuilt: list[UnbuiltObject] = []

    def run(self) -> Value:
        """Run the pickle to its STOP and return its value. Raises CorruptFileError, LimitError."""
        result = None
        try:
            self._run_opcodes()
            result = self._stack.pop()
        except (IndexError, KeyError, TypeError, ValueError, UnicodeError, OverflowError, AttributeError) as error:
            raise self._bad(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__) from error
        finally:
            self._count_names(result)
        if self._stack or self._marks:
            raise self._bad("values are left on the stack")
        if self._pos != self._size:
            raise self._bad(f"{self._size - self._pos} bytes follow its end")
        self._memo.clear()  # a checkpoint may keep a thousand machines, for their `globals`
        self._data = b""
        return result

    def _run_opcodes(self) -> None:
        """Execute all opcodes up to STOP."""
        self._loop()

    def _count_names(self, result: Value) -> None:
        """Record names that count as calls although no opcode calls them."""
        for name in self._counting:
            if not self.globals[name]:
                self._unbuilt(str(name), "handed")
        if (handed := self._make.handed(self.globals, [result, *self.unbuilt])) is not None:
            self._unbuilt(handed, "handed")

    def _loop(self) -> None:
        """Dispatch by table, except for the seven opcodes that make up two thirds of a torch pickle."""
        data, get, put = self._data, self._memo.get, self._memo.put
        handlers = self._handlers()
        stack, pos = self._stack, 0
        while True:
            opcode = data[pos]
            pos += 1
            if opcode == 0x72:  # LONG_BINPUT; if the index is truncated, the next opcode fails
                put(int.from_bytes(data[pos : pos + 4], "little"), stack[-1])
                pos += 4
            elif opcode == 0x71:  # BINPUT
                put(data[pos], stack[-1])
                pos += 1
            elif opcode == 0x68:  # BINGET
                stack.append(get(data[pos]))
                pos += 1
            elif opcode == 0x6A:  # LONG_BINGET
                stack.append(get(int.from_bytes(data[pos : pos + 4], "little")))
                pos += 4
            elif opcode == 0x4B:  # BININT1
                stack.append(data[pos])
                pos += 1
            elif opcode == 0x28:  # MARK
                if data[pos] == 0x28 and (found := idiom.find(data, pos)) and self._run_idiom(found):
                    pos = self._pos
                    continue
                self._marks.append(stack)
                stack = self._stack = []
            elif opcode == 0x2E:  # STOP
                self._pos = pos
                return
            else:
                self._pos = pos
                handlers[opcode]()
                stack, pos = self._stack, self._pos

    def _handlers(self) -> list[Callable[[], None]]:
        """The method for each opcode, by its byte."""
        return [getattr(self, f"_op_{name}") if name else self._unknown for name in _OPCODES]

    def _run_idiom(self, found: re.Match[bytes]) -> bool:
        """Run a tensor's opcodes in one step, with the same effect. False if they are not quite the idiom."""
        (
            kind, cls, length, key, key_at, device, numel, id_at,
            offset, sizes, sizes_at, strides, strides_at, flag, inner, inner_at, args_at, made_at,
        ) = found.groups()  # fmt: skip
        try:
            size, stride = self._ints(sizes), self._ints(strides)
        except ValueError:
            return False
        if length[0] != len(key):
            return False
        self._pos = found.end()
        get, put, got, index, number = self._memo.get, self._memo.put, idiom.got, idiom.index, idiom.number
        name = key.decode("ascii")
        put(index(key_at), name)
        identifier = get(got(kind)), get(got(cls)), name, get(got(device)), number(numel)
        put(index(id_at), identifier)
        result = self._make.persistent(identifier)
        if size:
            put(index(sizes_at), size)
        if stride:
            put(index(strides_at), stride)
        hooks = self._call(get(got(inner)), ())
        put(index(inner_at), hooks)
        args = result, number(offset), size, stride, flag == b"\x88", hooks
        put(index(args_at), args)
        self._stack[-1] = self._call(self._stack[-1], args)
        put(index(made_at), self._stack[-1])
        return True

    def _ints(self, code: bytes | None) -> tuple[int, ...]:
        """The tuple that the opcodes build, cached because layers repeat shapes. Raises ValueError if they do not."""
        if code is None:
            return ()
        known = self._tuples.get(code)
        if known is None:
            known = self._tuples[code] = idiom.numbers(code)
        return known

    def _unknown(self) -> NoReturn:
        opcode = self._data[self._pos - 1]
        raise self._bad(f"opcode {bytes([opcode])!r} is none, or needs what is not in the file")

    # Globals, and what would be calls

    def _push_global(self, module: str, name: str) -> None:
        old = self._protocol < 3
        known = self._known.get((module, name, old))
        if known is None:
            known = self._known[module, name, old] = self._lookup(module, name)
        self._stack.append(known)

    def _lookup(self, module: str, name: str) -> Value:
        if self._protocol < 3:  # Python 2's names, which every unpickler translates
            if (module, name) in NAME_MAPPING:
                module, name = NAME_MAPPING[module, name]
            elif module in IMPORT_MAPPING:
                module = IMPORT_MAPPING[module]
        if len(module) + len(name) > MAX_NAME:
            raise LimitError(f"it names a global in {len(module) + len(name):,} characters", hint="do not trust it")
        named = Global(module, name)
        self.globals.setdefault(named, False)
        if self._make.counts_when_named(named):
            self._counting.append(named)
        return self._make.value(named)

    def _op_GLOBAL(self) -> None:
        module = self._line().decode("utf-8")
        self._push_global(module, self._line().decode("utf-8"))

    def _op_STACK_GLOBAL(self) -> None:
        name = self._stack.pop()
        module = self._stack.pop()
        if type(module) is not str or type(name) is not str:
            raise self._bad("a global's name is not a string")
        self._push_global(module, name)

    def _note_hashed(self, keys: Iterable[Value]) -> None:
        for key in keys:
            if isinstance(key, (UnbuiltObject, tuple, frozenset)) and not self._make.only_hashes(key):
                self._unbuilt(_described(key), "called", (key,))

    def _op_REDUCE(self) -> None:
        args = self._stack.pop()
        function = self._stack.pop()
        if type(args) is not tuple:
            raise self._bad("the arguments of a call are not a tuple")
        self._stack.append(self._call(function, args))

    def _call(self, function: Value, args: tuple[Value, ...]) -> Value:
        if isinstance(function, UnbuiltObject):
            function = self._resolved_getattr(function)
        if type(function) is not Global:
            # a call of something that was itself computed: getattr(x, "system")(…)
            return self._unbuilt(_described(function), "called", args)
        try:
            constructor = self._constructors[id(function)]  # hashing the name a hundred thousand times is felt
        except KeyError:  # its first call
            self.globals[function] = True
            constructor = self._constructors[id(function)] = self._make.constructor(function)
        if args and function.module != "torch._utils":  # tensors copy nothing, and there may be a million of them
            self._charge(sum(len(arg) for arg in args if isinstance(arg, _SIZED)))
            for arg in args:
                if isinstance(arg, (list, tuple)):
                    self._check_keys(arg, arg)
                    if function.name in _SETS:
                        self._note_hashed(arg)
                    pairs = [item[0] for item in arg if item and isinstance(item, (list, tuple))]
                    self._check_keys(pairs, pairs)
        result = constructor(*args) if constructor else NotImplemented
        if result is not NotImplemented:
            return result
        if function == _RECONSTRUCTOR and self._make.only_reconstructs(args):
            return self._unbuilt(str(args[0]), "object", () if args[2] is None else args[2:])
        harmless = self._make.is_harmless(function, args)
        return self._unbuilt(str(function), "constructed" if harmless else "called", args)

    def _resolved_getattr(self, obj: UnbuiltObject) -> Value:
        """``getattr(CLASS, "attribute")`` as the dotted name that it is equal to; anything else as it is."""
        if obj.name == "builtins.getattr" and obj.how == "constructed" and isinstance(obj.args[0], Global):
            name = Global(obj.args[0].module, f"{obj.args[0].name}.{obj.args[1]}")
            return self._known.setdefault((name.module, name.name, False), name)
        return obj

    def _unbuilt(
        self, name: str, how: How, args: tuple[Value, ...] = (), kwargs: dict[str, Value] | None = None
    ) -> UnbuiltObject:
        """An object that is not built. It is recorded, so that it is reported even if the pickle drops it."""
        obj = UnbuiltObject(name, how, args, kwargs or {})
        self.unbuilt.append(obj)
        return obj

    def _op_NEWOBJ(self) -> None:
        args = self._stack.pop()
        self._push_new(self._stack.pop(), args, {})

    def _op_NEWOBJ_EX(self) -> None:
        kwargs = self._stack.pop()
        args = self._stack.pop()
        self._push_new(self._stack.pop(), args, kwargs)

    def _push_new(self, cls: Value, args: Value, kwargs: Value) -> None:
        if type(args) is not tuple or type(kwargs) is not dict:
            raise self._bad("the arguments of a new object are not a tuple and dict")
        if isinstance(cls, UnbuiltObject):  # a class in a class, below protocol 4
            cls = self._resolved_getattr(cls)
        if type(cls) is not Global:
            self._stack.append(self._unbuilt(_described(cls), "called", args, kwargs))
            return
        constructor = None if kwargs else self._make.constructor(cls)
        result = constructor(*args) if constructor else NotImplemented
        if result is NotImplemented:
            harmless = self._make.only_makes(cls, args, kwargs)
            self.globals[cls] = self.globals.get(cls, False) or not harmless
            result = self._unbuilt(str(cls), "object" if harmless else "called", args, kwargs)
        self._stack.append(result)

    def _op_INST(self) -> None:
        module = self._line().decode("utf-8")
        name = self._line().decode("utf-8")
        args = tuple(self._pop_mark())
        self._push_global(module, name)
        self._stack.append(self._call(self._stack.pop(), args))

    def _op_OBJ(self) -> None:
        cls, *args = self._pop_mark()
        self._stack.append(self._call(cls, tuple(args)))

    def _op_BUILD(self) -> None:
        state = self._stack.pop()
        instance = self._stack[-1]
        if isinstance(instance, UnbuiltObject):
            instance.set_state(state)
            if instance.how != "called" and not self._make.only_keeps(instance.name, state):
                instance.how = "called"
        elif isinstance(instance, StateOrderedDict):
            if attributes_among(OWN, state) or has_implicit_calls(state) or isinstance(state, UnbuiltObject):
                self._unbuilt("collections.OrderedDict", "called").set_state(state)
            instance.state = state
        elif not self._make.build(instance, state):
            raise self._bad(f"a {type(instance).__name__} is given a state")

    def _op_PERSID(self) -> None:
        self._stack.append(self._make.persistent(self._line().decode("ascii")))

    def _op_BINPERSID(self) -> None:
        self._stack.append(self._make.persistent(self._stack.pop()))


def _described(function: Value) -> str:
    """A name for a computed value that is called: never the whole value."""
    return function.name if isinstance(function, UnbuiltObject) else f"a {type(function).__name__}"


def _opcode_names() -> list[str]:
    """Opcode names by byte; "" for a byte that is no opcode, or one that the loop handles itself."""
    codes = (
        "0 POP|1 POP_MARK|2 DUP|p PUT|\x94 MEMOIZE|g GET|"
        "\x80 PROTO|\x95 FRAME|N NONE|\x88 NEWTRUE|\x89 NEWFALSE|I INT|L LONG|J BININT|M BININT2|"
        "\x8a LONG1|\x8b LONG4|F FLOAT|G BINFLOAT|V UNICODE|X BINUNICODE|\x8c SHORT_BINUNICODE|\x8d BINUNICODE8|"
        "S STRING|T BINSTRING|U SHORT_BINSTRING|B BINBYTES|C SHORT_BINBYTES|\x8e BINBYTES8|\x96 BYTEARRAY8|"
        ") EMPTY_TUPLE|t TUPLE|\x85 TUPLE1|\x86 TUPLE2|\x87 TUPLE3|] EMPTY_LIST|l LIST|} EMPTY_DICT|d DICT|"
        "\x8f EMPTY_SET|\x91 FROZENSET|a APPEND|e APPENDS|s SETITEM|u SETITEMS|\x90 ADDITEMS|c GLOBAL|"
        "\x93 STACK_GLOBAL|R REDUCE|\x81 NEWOBJ|\x92 NEWOBJ_EX|i INST|o OBJ|b BUILD|P PERSID|Q BINPERSID|\xff ELIDED"
    )
    names = [""] * 256
    for entry in codes.split("|"):
        code, name = entry.split(" ")
        names[ord(code)] = name
    return names


_OPCODES = _opcode_names()
