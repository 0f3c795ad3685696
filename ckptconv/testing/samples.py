"""Checkpoints in memory, which a format writes and reads back."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from dataclasses import dataclass, field
from itertools import cycle, islice
from math import inf, nan, prod
from struct import pack
from typing import TYPE_CHECKING

from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.composite import FLOAT_QPARAMS, PER_TENSOR, VALUES, Composite, Quantized, Sparse, from_dict
from ckptconv.core.dtypes import DTYPES, DType
from ckptconv.core.metadata import (
    MetaNode,
    NumpyArray,
    NumpyScalar,
    Opaque,
    StateDict,
    TensorRef,
    TorchSize,
    TorchValue,
)
from ckptconv.core.names import ALONE
from ckptconv.core.tensor import LazyTensor, TensorInfo, in_memory

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from ckptconv.formats.base import Holds


@dataclass(frozen=True, slots=True, eq=False)
class Plain:
    """A tensor; `data` are its bytes. The same object under two names is a tie."""

    dtype: DType
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def counting(cls, dtype: DType, *shape: int) -> Plain:
        """A tensor whose bytes count up, so that misplaced ones are noticed; booleans are 0 and 1."""
        top = 2 if dtype.kind == "bool" else 251
        return cls(dtype, shape, bytes(islice(cycle(range(top)), dtype.nbytes(prod(shape)))))


@dataclass(frozen=True, slots=True)
class Sample:
    """A checkpoint to be written. `root` and `composites` are as in `Checkpoint`."""

    name: str
    tensors: Mapping[str, Plain]
    root: MetaNode = StateDict()  # noqa: RUF009 (frozen)
    extras: Mapping[str, Plain] = field(default_factory=dict)
    composites: Mapping[str, Composite] = field(default_factory=dict)

    def open(self) -> Checkpoint:
        """The sample as a checkpoint."""
        return Checkpoint(
            {name: _lazy_tensor(plain) for name, plain in self.tensors.items()},
            extras={name: _lazy_tensor(plain) for name, plain in self.extras.items()},
            composites={name: from_dict(whole.to_dict()) for name, whole in self.composites.items()},
            root=self.root,
            format="memory",
        )


def _lazy_tensor(plain: Plain) -> LazyTensor:
    dtype = DTYPES.get(plain.dtype.name, plain.dtype)  # from another process it is a copy of the one in the table
    return in_memory(TensorInfo.of(dtype, plain.shape), plain.data, alias=id(plain))


NAMES = (
    "weight",
    "layers.0.weight",
    "layers.0",
    "layers.10.weight",
    "ünïcødé.权重.🙂",
    " spaces and\ttabs ",
    "line\nfeed",
    "nul\0byte",
    'quote"backslash\\',
    "../../etc/passwd",
    "__metadata__",
    "ckptconv",
    "format",
    "state_dict",
    "",
    "lone\ud800surrogate",
    "x" * 300,
)
"""Names that formats get wrong; a state_dict may hold any string."""

_F32 = DType.F32


def _usual_dtype(holds: Holds) -> DType:
    """The element type for samples in which the type does not matter."""
    return next((dtype for dtype in (_F32, DType.U8) if dtype in holds.dtypes), next(iter(holds.dtypes)))


def samples_for(holds: Holds) -> list[Sample]:
    """The samples that a format with these abilities has to give back."""
    plain = _usual_dtype(holds)
    if holds.single:
        types = [_single(dtype.name, Plain.counting(dtype, 3, 8)) for dtype in holds.dtypes]
        return [*types, *(_single(str(shape), Plain.counting(plain, *shape)) for shape in _SHAPES)]
    found = [
        Sample("no-tensors", {}),
        Sample("dtypes", {dtype.name: Plain.counting(dtype, 3, max(8, 2 * dtype.block)) for dtype in holds.dtypes}),
        Sample("shapes", {str(shape): Plain.counting(plain, *shape) for shape in _SHAPES}),
        Sample("names", {name: Plain.counting(plain, 2, 1 + at) for at, name in enumerate(NAMES)}),
    ]
    if holds.ties:
        found.append(_tied_sample(plain))
    if holds.metadata != "none":
        found.append(Sample("metadata", {"weight": Plain.counting(plain, 2)}, {**METADATA, "state_dict": StateDict()}))
    if holds.composites:
        found.append(_composite_sample())
    if holds.metadata != "none" and holds.extras:
        found += [_training_sample(plain), _list_sample(plain)]
    if holds.opaque:
        found.append(Sample("opaque", {"weight": Plain.counting(plain, 2)}, {"o": _OPAQUE, "state_dict": StateDict()}))
    return found


def small_sample(holds: Holds) -> Sample:
    """A sample so small that every bit of its header can be damaged."""
    plain = _usual_dtype(holds)
    if holds.single:
        return _single("small", Plain.counting(plain, 2, 3))
    tensors = {"a.weight": Plain.counting(plain, 2, 3), "b": Plain.counting(plain), "c": Plain.counting(plain, 0, 2)}
    if holds.metadata == "none":
        return Sample("small", tensors)
    return Sample("small", tensors, {"widths": [784, -1], "name": "net", "rate": 0.5, "state_dict": StateDict()})


def large_sample(holds: Holds) -> Sample:
    """A sample with much more data than any header."""
    plain = _usual_dtype(holds)
    if holds.single:
        return _single("large", Plain.counting(plain, 1 << 20))
    return Sample("large", {"a": Plain.counting(plain, 1 << 20), "b": Plain.counting(plain, 1 << 10, 1 << 8)})


def rich_sample(holds: Holds) -> Sample:
    """A sample with a tie, an extra and metadata, even if the format cannot hold them; for single tensors, no tie."""
    training = _training_sample(_usual_dtype(holds))
    shared = next(iter(training.tensors.values()))
    tensors = {ALONE: shared} if holds.single else {**training.tensors, "head.weight": shared}
    return Sample("rich", tensors, training.root, training.extras)


_SHAPES = ((), (1,), (0,), (3, 0, 4), (1, 1, 1), (2, 3), (2, 3, 4, 6), (1,) * 12)


def _single(name: str, tensor: Plain) -> Sample:
    """A sample of one tensor and nothing else."""
    return Sample(name, {ALONE: tensor}, TensorRef(ALONE))


def _tied_sample(dtype: DType) -> Sample:
    shared, other = Plain.counting(dtype, 4, 2), Plain.counting(dtype, 3, 1)
    names = {"embed.weight": shared, "x.weight": other, "head.weight": shared, "y": other, "last.weight": shared}
    return Sample("ties", {**names, "alone": Plain.counting(dtype, 4, 2)})


def _composite_sample() -> Sample:
    """A matrix quantized as a whole, one by columns, and a sparse one, between plain tensors."""
    table = {
        "first": Plain.counting(_F32, 2),
        "w": Plain.counting(DType.I8, 2, 3),
        "w.scale": Plain(DType.F64, (), pack("<d", 0.125)),
        "w.zero_point": Plain(DType.I64, (), pack("<q", -3)),
        "c": Plain.counting(DType.U8, 2, 3),
        "c.scale": Plain(DType.F32, (3,), pack("<3f", 0.5, 1, 2)),
        "c.zero_point": Plain(DType.F32, (3,), pack("<3f", 0, -0.5, 4)),
        "e.crow_indices": Plain(DType.I64, (4,), pack("<4q", 0, 2, 2, 3)),
        "e.col_indices": Plain(DType.I64, (3,), pack("<3q", 0, 4, 1)),
        "e.values": Plain.counting(_F32, 3),
        "last": Plain.counting(_F32, 1),
    }
    integers, compressed = ("scale", "zero_point"), ("crow_indices", "col_indices", VALUES)
    composites: dict[str, Composite] = {
        "w": Quantized({VALUES: "w", **{r: f"w.{r}" for r in integers}}, (2, 3), DType.QI8, PER_TENSOR),
        "c": Quantized({VALUES: "c", **{r: f"c.{r}" for r in integers}}, (2, 3), DType.QU8, FLOAT_QPARAMS, 1),
        "e": Sparse({role: f"e.{role}" for role in compressed}, (3, 5), _F32, "sparse_csr"),
    }
    return Sample("composites", table, composites=composites)


def _training_sample(dtype: DType) -> Sample:
    moments = {f"optimizer.state.0.exp_avg{end}": Plain.counting(dtype, 2, 2) for end in ("", "_sq")}
    state = {"step": 3.0, "exp_avg": TensorRef(next(iter(moments))), "exp_avg_sq": TensorRef(list(moments)[1])}
    root = {
        "epoch": 3,
        "state_dict": StateDict(versions=OrderedDict({"": {"version": 1}, "bn": {"version": 2}})),
        "optimizer": {"state": {0: state}, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999), "params": [0]}]},
    }
    return Sample("training", {"bn.weight": Plain.counting(dtype, 2, 2)}, root, moments)


def _list_sample(dtype: DType) -> Sample:
    plain = ((1, "extra_state", {"calls": 2}), (3, "note", "text"))
    root: MetaNode = [StateDict(container="dict", plain=plain), {"lr": 0.1}, ("a", TensorRef("2.1"))]
    return Sample("list", {"w": Plain.counting(dtype, 2), "b": Plain.counting(dtype)}, root, {
        "2.1": Plain.counting(dtype, 5)
    })  # fmt: skip


METADATA: dict[Hashable, MetaNode] = {
    "none": None,
    "true": True,
    "ints": [0, -1, 2**31, -(2**63), 2**64, -(2**100), 7**9000],
    "floats": [0.0, -0.0, 1e-310, 0.1, inf, -inf, nan],
    "complex": complex(-0.0, nan),
    "text": ["", "a\0b\n", "权重", "\ud800", '"quoted"', "3", "[1]"],
    "bytes": [b"", bytes(range(256)), bytearray(b"\0\xff")],
    "tuple": (1, (), ("nested", [2.0])),
    "sets": [set(), {1, "a", (2, None)}, frozenset([b"x", 1.5]), frozenset()],
    "dict": {1: "int", "1": "text", None: 0, (1, 2): {}, 1.5: [], False: {"": 1}} | {"$int": "0x10", "$": {}},
    "ordered": OrderedDict([("z", 1), ("a", OrderedDict())]),
    "counter": Counter({"b": 2, "a": -1}),
    "defaultdict": [defaultdict(list, {"k": [1]}), defaultdict(None, {1: 2}), defaultdict(OrderedDict)],
    "size": [TorchSize((2, 3)), TorchSize()],
    "torch": [
        TorchValue("dtype", "bfloat16"),
        TorchValue("device", "cuda:1"),
        TorchValue("device", "cpu"),
        TorchValue("layout", "strided"),
        TorchValue("memory_format", "channels_last"),
        TorchValue("qscheme", "per_tensor_affine"),
    ],
    "numpy": [
        NumpyScalar("<f8", bytes(7) + b"\x40"),
        NumpyScalar("|b1", b"\1"),
        NumpyArray("<i4", (2, 3), bytes(range(24))),
        NumpyArray(">f4", (3, 2), bytes(range(24)), fortran=True),
        NumpyArray("<U2", (1,), b"a\0\0\0b\0\0\0"),
        NumpyArray("<f8", (0, 4), b""),
    ],
    "large": b"\xa5" * 100_000,
    "format": "a string of the user's",
    "ckptconv": {"a key": "of the user's"},
    "a.b": 1,
    "a": {"b": 2},
    "": "empty key",
    "\ud800": "key with a lone surrogate",
    7: "an int key",
}
"""An example of everything that a metadata tree may hold."""

_OPAQUE = Opaque(
    "some.module.Config", "object", ("arg",), {"key": 1}, {"width": 3}, [1, (2,)], [("k", OrderedDict([(1, 2)]))]
)
