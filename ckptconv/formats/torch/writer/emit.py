"""Pickling a metadata tree for torch.load, using only globals from a fixed list.

Protocol 2, as torch.save writes by default and ``weights_only`` reads. Globals and strings are memoised, so that 30,000
tensors do not repeat ``torch._utils._rebuild_tensor_v2`` as many times.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from dataclasses import dataclass
from struct import pack
from typing import TYPE_CHECKING

from ckptconv.core.metadata import (
    FACTORY_NAMES,
    MetaNode,
    NumpyArray,
    NumpyScalar,
    Opaque,
    StateDict,
    TensorRef,
    TorchSize,
    TorchValue,
)
from ckptconv.core.spelling import canonical
from ckptconv.errors import CorruptFileError
from ckptconv.formats.targets.plain import as_plain
from ckptconv.formats.torch import dtypes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_BUILTINS = "__builtin__"  # the name of `builtins` in protocol 2

GLOBALS = frozenset(
    ["collections OrderedDict", "collections defaultdict", "collections Counter", "_codecs encode",
     "torch Size", "torch device", "torch.serialization _get_layout", "torch._utils _rebuild_tensor_v2",
     "torch._utils _rebuild_tensor_v3", "torch._utils _rebuild_qtensor", "torch._utils _rebuild_sparse_tensor",
     "torch._utils _rebuild_parameter", "torch._utils _rebuild_parameter_with_state",
     "torch._tensor _rebuild_from_type_v2",
     "torch Tensor", "torch.nn.parameter Parameter", "torch.storage UntypedStorage",
     "numpy dtype", "numpy ndarray", "numpy.core.multiarray scalar", "numpy.core.multiarray _reconstruct"]
    + [f"{_BUILTINS} {name}" for name in
       ("set", "frozenset", "bytearray", "complex", "list", "dict", "tuple", "int", "float", "str", "bool")]
)  # fmt: skip
"""Every "module name" that may be emitted, except torch's constants and storage classes (`Emitter.constant`)."""

DCP_GLOBALS = frozenset(
    [f"torch.distributed.checkpoint.metadata {name}" for name in
     ("Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata", "TensorProperties",
      "MetadataIndex", "_MEM_FORMAT_ENCODING")]
    + ["torch.distributed.checkpoint.filesystem _StorageInfo"]
)  # fmt: skip
"""Further globals in the listing of a distributed checkpoint: plain records of sizes, places and names."""

CONSTANTS = frozenset(
    [
        *dtypes.ALL_DTYPE_NAMES,
        *dtypes.QSCHEMES,
        *dtypes.MEMORY_FORMATS,
        *dtypes.STORAGE_CLASSES,
        *dtypes.QUANTIZED_STORAGES,
        dtypes.UNTYPED,
    ]
)


@dataclass(frozen=True, slots=True)
class StorageRef:
    """A storage in the archive: its class, its key and its number of elements."""

    cls: tuple[str, str]
    key: str
    numel: int


class Emitter:
    """Builds one pickle.

    tensor:     the writer's function that emits a tensor by name.
    state_dict: the writer's function that emits a `StateDict`.
    allowed:    the globals that this kind of pickle may name.
    versions:   the ``_metadata`` of OrderedDicts in the tree, by their `id`.
    """

    def __init__(
        self,
        tensor: Callable[[Emitter, str], None],
        state_dict: Callable[[Emitter, StateDict], None],
        allowed: frozenset[str] = GLOBALS,
        versions: Mapping[int, MetaNode] | None = None,
    ) -> None:
        self._allowed = allowed
        self._out = bytearray(b"\x80\x02")  # joining millions of pieces takes 80 bytes for each
        self._memo: dict[bytes, bytes] = {}
        self._tensor = tensor
        self._state_dict = state_dict
        self._versions = versions or {}

    def finish(self) -> bytes:
        """The whole pickle."""
        return bytes(self._out + b".")

    def op(self, code: bytes) -> None:
        """Emit an opcode without an argument."""
        self._out += code

    def _memoised(self, piece: bytes) -> None:
        """Emit `piece`, or if it was emitted before, get its value from the memo."""
        known = self._memo.get(piece)
        if known is not None:
            self._out += known
            return
        index = len(self._memo)
        put, get = (b"q%c", b"h%c") if index < 256 else (b"r", b"j")
        number = bytes([index]) if index < 256 else pack("<I", index)
        self._out += piece + put[:1] + number
        self._memo[piece] = get[:1] + number

    def named(self, module: str, name: str) -> None:
        """Emit a global from the fixed list."""
        if f"{module} {name}" not in self._allowed:
            raise AssertionError(f"{module}.{name} is not on the list of globals that may be written")
        self._memoised(f"c{module}\n{name}\n".encode("ascii"))

    def constant(self, name: str, module: str = "torch") -> None:
        """Emit one of torch's dtypes, schemes, formats or storage classes: a plain name, never a call."""
        if name not in CONSTANTS:  # a forged record could contain any name
            raise CorruptFileError(f"{name!r} is not a constant of torch", hint="do not trust it")
        self._memoised(f"c{module}\n{name}\n".encode("ascii"))

    def call(self, module: str, name: str, *args: MetaNode) -> None:
        """Emit a call of a global from the fixed list."""
        self.named(module, name)
        self.node(args)
        self.op(b"R")

    def instance(self, module: str, name: str, state: MetaNode) -> None:
        """Emit a new object of a class from the fixed list, and its state."""
        self.named(module, name)
        self.op(b")\x81")
        if state is not None:
            self.node(state)
            self.op(b"b")

    def text(self, text: str) -> None:
        """Emit a string; equal ones are shared."""
        raw = text.encode("utf-8", "surrogatepass")
        self._memoised(b"X" + pack("<I", len(raw)) + raw)

    def pairs(self, items: Iterable[tuple[MetaNode, MetaNode]]) -> None:
        """Set items on the mapping on top of the stack."""
        self.op(b"(")
        for key, value in items:
            self.node(_as_key(key))
            self.node(value)
        self.op(b"u")

    def node(self, node: MetaNode) -> None:
        """Emit any node of a metadata tree."""
        match node:
            case None:
                self.op(b"N")
            case bool():
                self.op(b"\x88" if node else b"\x89")
            case int():
                self.integer(node)
            case float():
                self.op(b"G" + pack(">d", node))
            case str():
                self.text(node)
            case complex():
                self.call(_BUILTINS, "complex", node.real, node.imag)
            case bytes():
                self.call("_codecs", "encode", node.decode("latin-1"), "latin1")
            case bytearray():
                self.call(_BUILTINS, "bytearray", *((node.decode("latin-1"), "latin-1") if node else ()))
            case TensorRef(name):
                self._tensor(self, name)
            case StateDict():
                self._state_dict(self, node)
            case StorageRef(cls, key, numel):
                self._storage(cls, key, numel)
            case _:
                self._compound(node)

    def integer(self, value: int) -> None:
        """Emit an int of any size."""
        if 0 <= value < 256:
            self.op(b"K%c" % value)
        elif 0 <= value < 65536:
            self.op(b"M" + pack("<H", value))
        elif -(2**31) <= value < 2**31:
            self.op(b"J" + pack("<i", value))
        else:
            raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            self.op((b"\x8a" + bytes([len(raw)]) if len(raw) < 256 else b"\x8b" + pack("<I", len(raw))) + raw)

    def _compound(self, node: MetaNode) -> None:
        match node:
            case TorchSize():
                self.call("torch", "Size", tuple(node))
            case TorchValue("device", name):
                kind, _, index = name.partition(":")
                self.call("torch", "device", *((kind, int(index)) if index else (kind,)))
            case TorchValue("layout", name) if f"torch.{name}" in dtypes.LAYOUTS:
                self.call("torch.serialization", "_get_layout", f"torch.{name}")
            case TorchValue(_, name):
                self.constant(name)
            case tuple():
                self._tuple(node)
            case list():
                self._list(node)
            case set() | frozenset():
                # The iteration order of a set differs between processes; the file must not.
                self.call(_BUILTINS, type(node).__name__, sorted(map(_as_key, node), key=canonical))
            case dict():
                self._mapping(node)
            case NumpyScalar(dtype, data):
                self.named("numpy.core.multiarray", "scalar")
                self.op(b"(")
                self._numpy_dtype(dtype)
                self.node(data)
                self.op(b"tR")
            case NumpyArray():
                self._numpy_array(node)
            case Opaque():
                self.node(as_plain(node))
            case _:
                raise TypeError(f"{type(node).__name__} is not a metadata node")

    def _tuple(self, items: tuple[MetaNode, ...]) -> None:
        if len(items) > 3:
            self.op(b"(")
        for item in items:
            self.node(item)
        self.op((b")", b"\x85", b"\x86", b"\x87")[len(items)] if len(items) <= 3 else b"t")

    def _list(self, items: list[MetaNode]) -> None:
        self.op(b"]")
        if items:
            self.op(b"(")
            for item in items:
                self.node(item)
            self.op(b"e")

    def _mapping(self, node: dict[MetaNode, MetaNode]) -> None:
        match node:
            case Counter():
                self.call("collections", "Counter", dict(node))
                return
            case OrderedDict():
                self.call("collections", "OrderedDict")
            case defaultdict():
                self._defaultdict(node)
            case _:
                self.op(b"}")
        if node:
            self.pairs(node.items())
        if id(node) in self._versions and type(node) is OrderedDict:
            self.attributes({"_metadata": self._versions[id(node)]})

    def attributes(self, attributes: dict[MetaNode, MetaNode]) -> None:
        """Set attributes on the object on top of the stack."""
        self.node(attributes)
        self.op(b"b")

    def _defaultdict(self, node: defaultdict[MetaNode, MetaNode]) -> None:
        self.named("collections", "defaultdict")
        if node.default_factory is None:
            self.op(b")R")
            return
        module, _, name = FACTORY_NAMES[node.default_factory].rpartition(".")
        self.named(_BUILTINS if module == "builtins" else module, name)
        self.op(b"\x85R")

    def _storage(self, cls: tuple[str, str], key: str, numel: int) -> None:
        """A persistent id. The device is always "cpu", so that the file loads on any machine."""
        self.op(b"(")
        self.text("storage")
        self.constant(cls[1], cls[0])
        self.text(key)
        self.text("cpu")
        self.integer(numel)
        self.op(b"tQ")

    def _numpy_dtype(self, spelled: str) -> None:
        """A dtype and its state, with the fields of numpy's ``__reduce__``."""
        order, code = spelled[0], spelled[1:]
        sized = code[0] in "USV"
        width = int(code[1:]) * (4 if code[0] == "U" else 1)
        self.call("numpy", "dtype", code, False, True)
        # version, byte order, subdtype, names, fields, item size, alignment, flags (8: U needs init)
        size, align, flags = (width, 4 if code[0] == "U" else 1, 8 if code[0] == "U" else 0) if sized else (-1, -1, 0)
        self.node((3, order, None, None, None, size, align, flags))
        self.op(b"b")

    def _numpy_array(self, array: NumpyArray) -> None:
        self.named("numpy.core.multiarray", "_reconstruct")
        self.op(b"(")
        self.named("numpy", "ndarray")
        self.node((0,))
        self.node(b"b")
        self.op(b"tR(")
        self.node(1)
        self.node(array.shape)
        self._numpy_dtype(array.dtype)
        self.node(array.fortran)
        self.node(array.data)
        self.op(b"tb")


def _as_key(node: MetaNode) -> MetaNode:
    """A key, or a member of a set. An object in it becomes a string, because a dict cannot be a key."""
    match node:
        case TorchSize():
            return node
        case tuple():
            return tuple(_as_key(item) for item in node)
        case frozenset():
            return frozenset(_as_key(item) for item in node)
        case Opaque():
            return canonical(node)
        case _:
            return node
