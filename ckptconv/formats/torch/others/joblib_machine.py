"""The machine for joblib's pickles, which have arrays between the opcodes.

    opcodes     … create a NumpyArrayWrapper, and BUILD gives it its state
    1 byte      n, from 1 to 16, and n bytes 0xff, since joblib 1.2: if the state has numpy_array_alignment_bytes
    bytes       the elements of shape and dtype, in order "C" or "F"; for a dtype with objects, a pickle of the array
    opcodes     go on, with the array in place of the wrapper

The wrapper's state is {"subclass", "shape", "order", "dtype", "allow_mmap"}, and "numpy_array_alignment_bytes".
joblib reads an array where a frame of the pickle ends, and its writer ends a frame before each array; a frame that goes
on is refused. So is anything that leaves it uncertain which bytes joblib would read as an array: the class under any
other name, a wrapper that gets a state twice, a dtype with another size than its code says.

Source: joblib/numpy_pickle.py (`NumpyArrayWrapper`, `NumpyUnpickler`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.tensor import ByteSpan
from ckptconv.errors import CorruptFileError, LimitError, UnsupportedError
from ckptconv.formats.torch.containers.bare import is_wrapper
from ckptconv.formats.torch.containers.pickled import BareConstructors
from ckptconv.formats.torch.pickle import Budget, Elided, Global, Machine, PickleStream, Value
from ckptconv.formats.torch.values.numpy_values import ArrayParts, NumpyDType, NumpyStub, width
from ckptconv.formats.torch.values.stubs import exact_sizes
from ckptconv.io.limits import MAX_BUILDS, MAX_DEPTH, MAX_PICKLE_BYTES, MAX_RANK

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptconv.core.tensor import SpanFile

_WRAPPER = "NumpyArrayWrapper"
_MODULES = ("joblib.numpy_pickle", "sklearn.externals.joblib.numpy_pickle")
_RECONSTRUCTOR = Global("copyreg", "_reconstructor")
_ARRAYS = ("numpy.ndarray", "numpy.matrix", "numpy.matrixlib.defmatrix.matrix")
_ALIGNMENT = "numpy_array_alignment_bytes"
_KEYS = frozenset(["subclass", "shape", "order", "dtype", "allow_mmap"])
_ALIGNED = 16
_LENGTHS = {ord("T"): 4, ord("B"): 4, 0x8E: 8, 0x96: 8}
"""Bytes of the length before a long run, by its opcode."""


@dataclass(slots=True, eq=False)
class NumpyArrayWrapper:
    """joblib's object of that name; `layout` describes the array that follows."""

    layout: Layout | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """An array in the file. `objects`: it is stored as a pickle. `padded`: there is padding in front of it."""

    dtype: NumpyDType
    shape: tuple[int, ...]
    fortran: bool
    objects: bool
    padded: bool
    nbytes: int


@dataclass(slots=True)
class JoblibConstructors(BareConstructors):
    """What a joblib file may build: what a bare pickle may, and the wrappers.

    padded: whether there was padding in front of every array, at which pickle.load fails.
    """

    padded: bool = True
    _module: str = ""
    _states: dict[int, tuple[NumpyDType, tuple[Value, ...]]] = field(default_factory=dict)

    def counts_when_named(self, name: Global) -> bool:
        """As for bare pickles. Raises UnsupportedError for a wrapper that is not read."""
        self._is_wrapper(name)
        return BareConstructors.counts_when_named(self, name)

    def constructor(self, name: Global) -> Callable[..., Value] | None:
        """Our constructor for a name, including the wrapper's."""
        if self._is_wrapper(name):
            return self._recorded(name, NumpyArrayWrapper)
        result = BareConstructors.constructor(self, name)
        return self._reconstructor(result) if name == _RECONSTRUCTOR else result

    def only_makes(self, cls: Global, args: tuple[Value, ...], kwargs: dict[str, Value]) -> bool:
        """As for bare pickles, but never true for a wrapper."""
        if self._is_wrapper(cls):
            raise _bad("a NumpyArrayWrapper is made with arguments")
        return BareConstructors.only_makes(self, cls, args, kwargs)

    def build(self, instance: Value, state: Value) -> bool:
        """As for bare pickles; a wrapper gets its layout."""
        if isinstance(instance, NumpyArrayWrapper):
            if instance.layout is not None:
                raise _bad("a NumpyArrayWrapper is given a state twice")
            instance.layout = self._layout(state)
            return True
        if isinstance(instance, NumpyDType) and isinstance(state, tuple):
            if id(instance) in self._states:
                raise _bad("a dtype is given a state twice")
            self._states[id(instance)] = instance, state
        return BareConstructors.build(self, instance, state)

    def _is_wrapper(self, name: Global) -> bool:
        """Whether a name is joblib's wrapper. Raises UnsupportedError for a kind that is not read."""
        if not is_wrapper(name):
            return False
        if name.name in ("NDArrayWrapper", "ZNDArrayWrapper"):
            raise UnsupportedError(
                "this is a file from joblib before 0.10, whose arrays are in files beside it",
                hint="where you trust it, joblib.dump what joblib.load gives: that is read",
            )
        if name.name != _WRAPPER or name.module not in _MODULES or self._module not in ("", name.module):
            raise UnsupportedError(
                f"it names joblib's wrapper of arrays as {str(name)[:200]!r}", hint="do not trust it"
            )
        self._module = name.module
        return True

    def _reconstructor(self, otherwise: Callable[..., Value] | None) -> Callable[..., Value]:
        """``copyreg._reconstructor``, with which protocols 0 and 1 create objects, extended to wrappers."""

        def result(*args: Value) -> Value:
            if args and isinstance(args[0], Global) and self._is_wrapper(args[0]):
                if args[1:] != (Global("builtins", "object"), None):
                    raise _bad("a NumpyArrayWrapper is made with arguments")
                self.answered.add(str(args[0]))
                return NumpyArrayWrapper()
            return otherwise(*args) if otherwise else NotImplemented

        return result

    def _layout(self, state: Value) -> Layout:
        if type(state) is not dict or not _KEYS <= state.keys() <= _KEYS | {_ALIGNMENT}:
            raise _bad("the state of a NumpyArrayWrapper is not joblib's")
        subclass, dtype, order, alignment = state["subclass"], state["dtype"], state["order"], state.get(_ALIGNMENT)
        if subclass is not self.memmap and not (isinstance(subclass, Global) and str(subclass) in _ARRAYS):
            raise UnsupportedError("it has an array of a class that is not numpy's own", hint="save plain arrays")
        if not isinstance(dtype, NumpyDType) or order not in ("C", "F") or type(state["allow_mmap"]) is not bool:
            raise _bad("the state of a NumpyArrayWrapper is not joblib's")
        if alignment is not None and type(alignment) is not int:
            raise _bad("the alignment of an array is not a number")
        shape = exact_sizes(state["shape"])
        if min(shape, default=0) < 0 or len(shape) > MAX_RANK:
            raise _bad("an array has a shape that none has")
        objects = self._has_objects(dtype, 0)
        nbytes = 0 if objects else prod(shape) * self._itemsize(dtype)
        padded = alignment is not None and not objects
        self.padded &= padded
        return Layout(dtype, shape, order == "F", objects, padded, nbytes)

    def _has_objects(self, dtype: NumpyDType, depth: int) -> bool:
        """Whether elements are, or contain, objects. Raises CorruptFileError if the dtype's flags say otherwise."""
        if dtype.code[:1] == "O":
            return True
        _, state = self._states.get(id(dtype), (dtype, ()))
        _, _, sub, names, fields, *rest = state if len(state) >= 5 else (None,) * 5
        if sub is None and names is None and fields is None:
            return False
        inner = [*(fields.values() if isinstance(fields, dict) else ()), *([sub] if sub is not None else ())]
        parts = [pair[0] for pair in inner if isinstance(pair, tuple) and pair and isinstance(pair[0], NumpyDType)]
        if dtype.code[:1] != "V" or len(parts) != len(inner) or depth > MAX_DEPTH:
            raise _bad("the fields of a dtype are not numpy's")
        found = any(self._has_objects(part, depth + 1) for part in parts)
        flags = rest[2] if len(rest) >= 3 else None
        if type(flags) is not int or bool(flags & 1) is not found:
            raise _bad("a dtype says that it has objects, or none, and its fields say otherwise")
        return found

    def _itemsize(self, dtype: NumpyDType) -> int:
        """Bytes of an element, which must be the size in the dtype's state if numpy uses that."""
        digits = dtype.code[1:]
        known = dtype.code[:1] in tuple("biufcSUVmM") and digits.isascii() and digits.isdigit() and len(digits) < 10
        size = width(dtype) or (int(digits) * (4 if dtype.code[0] == "U" else 1) if known else 0)
        if not size:
            raise UnsupportedError(f"it has an array of the element type {dtype.code[:40]!r}", hint="save plain arrays")
        _, state = self._states.get(id(dtype), (dtype, ()))
        if dtype.code[0] in "SUV" and (len(state) < 6 or state[5] != size):
            raise _bad("a dtype's size is not what its code says")
        return size


class JoblibMachine(Machine):
    """Runs the pickle at a stream's position, once, with the arrays in it.

    outer: the machine whose pickle contains this one as an array of objects; in such a pickle no wrapper is an array.
    kept:  bytes of opcodes so far.
    """

    def __init__(
        self, stream: PickleStream, file: SpanFile, makers: JoblibConstructors, outer: JoblibMachine | None = None
    ) -> None:
        super().__init__(b"", makers)
        self.kept = 0
        self._stream, self._file, self._makers, self._outer = stream, file, makers, outer
        self._charge = Budget(min(stream.left, MAX_PICKLE_BYTES)).take
        self._builds = 0
        self._kept: list[Callable[[], None]] = []
        self._behind = 0  # bytes of long runs still ahead in this piece, which are in the file but not in its data
        self._end = 0  # the end of this piece, without a STOP that was added to it
        self._frame_end = 0
        if outer is not None:
            self.globals, self.unbuilt = outer.globals, outer.unbuilt

    def _bad(self, why: str) -> CorruptFileError:
        return CorruptFileError(f"the pickle cannot be followed at byte {self._place():,}: {why}")

    def _place(self) -> int:
        """The position in the file."""
        return self._stream.position - (self._end - self._pos) - self._behind

    def _handlers(self) -> list[Callable[[], None]]:
        """As for other machines, but kept from one piece to the next."""
        return self._kept or super()._handlers()

    def _run_opcodes(self) -> None:
        """Execute the opcodes in pieces that end with a BUILD, because array bytes may follow one."""
        self._kept = super()._handlers()
        try:
            self._run_pieces()
        finally:
            self._kept = []  # breaks the reference cycle
        self._check_frame("a pickle")

    def _run_pieces(self) -> None:
        while True:
            data, self._elided = self._stream.elided(MAX_PICKLE_BYTES - self.kept, to_build=True)
            self._pos, self._end = 0, len(data)
            self.kept += len(data)
            self._behind = sum(map(_left_out, self._elided))
            ends = data[-1:] == b"."
            self._data = data if ends else data + b"."
            self._size = len(self._data)
            self._loop()
            if ends:
                return
            self._pos = self._end
            self._builds += 1
            if self._builds > MAX_BUILDS:
                raise LimitError(f"it has more than {MAX_BUILDS:,} objects with a state", hint="do not trust it")
            if isinstance(self._stack[-1], NumpyArrayWrapper):
                self._stack[-1] = self._array(self._stack[-1])

    def _op_FRAME(self) -> None:
        length = self._uint(8)
        self._frame_end = max(self._frame_end, self._place() + length)

    def _op_ELIDED(self) -> None:
        super()._op_ELIDED()
        self._behind -= _left_out(self._stack[-1])

    def _check_frame(self, what: str) -> None:
        if self._frame_end > self._stream.position:
            raise self._bad(f"a frame goes on behind {what}, where joblib would read elsewhere")

    def _array(self, wrapper: NumpyArrayWrapper) -> Value:
        """The array that a wrapper describes, from the bytes after it."""
        layout = wrapper.layout
        if layout is None or self._outer is not None:
            raise self._bad("a NumpyArrayWrapper stands where joblib reads no array")
        self._check_frame("the state of an array")
        if layout.objects:
            return self._objects()
        if layout.padded:
            count = self._stream.take(1)[0]
            if not 1 <= count <= _ALIGNED or self._stream.take(count) != b"\xff" * count:
                raise self._bad("the padding before an array is not joblib's")
        span = ByteSpan(self._file, self._stream.skip(layout.nbytes), layout.nbytes)
        data = Elided(span, ord("B"))
        parts = ArrayParts(layout.dtype, layout.shape, data, layout.fortran) if width(layout.dtype) else None
        return NumpyStub(parts, (1, layout.shape, layout.dtype, layout.fortran, data))

    def _objects(self) -> NumpyStub:
        inner = JoblibMachine(self._stream, self._file, self._makers, self)
        inner.kept = self.kept
        result = inner.run()
        self.kept = inner.kept
        if not isinstance(result, NumpyStub):
            raise self._bad("what stands for an array of objects is none")
        return result


def _left_out(run: Elided) -> int:
    """How many more bytes a long run takes in the file than `ELIDED` and its index."""
    return run.span.length + _LENGTHS[run.opcode] - 4


def _bad(why: str) -> CorruptFileError:
    return CorruptFileError(why)
