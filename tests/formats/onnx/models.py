"""Models made with the onnx package, and what it reads from a file: the oracle of this folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ckptconv.formats.onnx.tensors import DTYPE_BY_CODE
from ckptconv.testing import Reading

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

FLOATING = {
    code for code, dtype in DTYPE_BY_CODE.items() if dtype.kind in ("float", "complex")
}  # fmt: skip


def tensor(name: str, code: int, dims: Sequence[int], *, seed: int = 0) -> TensorProto:
    """A tensor of random bits in `raw_data`, bools and paddings but valid ones."""
    dtype, numel = DTYPE_BY_CODE[code], int(np.prod(dims, dtype=np.int64))
    rng = np.random.default_rng(seed + code)
    codes = rng.integers(0, 2 if dtype.name == "BOOL" else 1 << min(dtype.bits, 8), size=numel, dtype=np.uint16)
    data = pack(codes, dtype.bits) if dtype.bits < 8 else rng.bytes(dtype.nbytes(numel))
    if dtype.name == "BOOL":
        data = codes.astype(np.uint8).tobytes()
    return TensorProto(name=name, data_type=code, dims=dims, raw_data=data)


def pack(codes: np.ndarray, bits: int) -> bytes:
    """Codes of under 8 bits, the first in the lowest bits."""
    flags = (codes.reshape(-1, 1) >> np.arange(bits, dtype=codes.dtype)) & 1
    return np.packbits(flags.astype(np.uint8).reshape(-1), bitorder="little").tobytes()


def typed(raw: TensorProto) -> TensorProto:
    """The same tensor with its numbers in the typed field."""
    dtype = DTYPE_BY_CODE[raw.data_type]
    again = TensorProto(name=raw.name, data_type=raw.data_type, dims=raw.dims)
    data = raw.raw_data
    match dtype.name:
        case "F32" | "C64":
            again.float_data.extend(np.frombuffer(data, "<f4"))
        case "F64" | "C128":
            again.double_data.extend(np.frombuffer(data, "<f8"))
        case "I64":
            again.int64_data.extend(np.frombuffer(data, "<i8"))
        case "U64" | "U32":
            again.uint64_data.extend(int(n) for n in np.frombuffer(data, f"<u{dtype.bits // 8}"))
        case "I32" | "I16" | "I8":
            again.int32_data.extend(int(n) for n in np.frombuffer(data, f"<i{dtype.bits // 8}"))
        case "F6_E2M3" | "F6_E3M2":
            again.int32_data.extend(int(n) for n in numpy_helper.to_array(raw).reshape(-1).view(np.uint8))
        case _:
            again.int32_data.extend(int(n) for n in np.frombuffer(data, f"<u{max(dtype.bits // 8, 1)}"))
    return again


def image(proto: TensorProto, folder: str = "") -> bytes:
    """What the onnx package reads, packed as our images are."""
    dtype = DTYPE_BY_CODE[proto.data_type]
    array = np.ascontiguousarray(numpy_helper.to_array(proto, folder))
    if dtype.bits < 8:
        return pack(array.reshape(-1).view(np.uint8) & ((1 << dtype.bits) - 1), dtype.bits)
    return array.tobytes()


def graph(
    nodes: Iterable[onnx.NodeProto] = (), initializers: Iterable[TensorProto] = (), name: str = "g"
) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), name, [], [], list(initializers))


def model(
    nodes: Iterable[onnx.NodeProto] = (), initializers: Iterable[TensorProto] = (), **options: object
) -> onnx.ModelProto:
    return helper.make_model(graph(nodes, initializers), **options)


def write(path: Path, made: onnx.ModelProto | bytes) -> Path:
    path.write_bytes(made if isinstance(made, bytes) else made.SerializeToString())
    return path


def reference(path: Path) -> Reading:
    """The model's tensors as the onnx package reads them: initializers, and floating Constants of the main graph."""
    loaded = onnx.load(path)
    found = {}
    for proto in loaded.graph.initializer:
        if proto.data_type != TensorProto.STRING:
            found[proto.name] = proto
    for node in loaded.graph.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            for attribute in node.attribute:
                if attribute.t.dims and attribute.t.data_type in FLOATING:
                    found[node.output[0]] = attribute.t
                elif attribute.floats:
                    found[node.output[0]] = numpy_helper.from_array(np.array(attribute.floats, np.float32))
    strings = {entry.key: entry.value for entry in loaded.metadata_props}
    return Reading({name: seen(proto) for name, proto in found.items()}, strings or None)


def seen(proto: TensorProto) -> tuple[str, tuple[int, ...], bytes]:
    return DTYPE_BY_CODE[proto.data_type].name, tuple(proto.dims), image(proto)
