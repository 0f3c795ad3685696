"""Reader of PaddlePaddle's inference models, which ``paddle.jit.save`` and ``save_inference_model`` write.

    NAME.pdiparams      tensors, one after the other, without names, in the order of their sorted names:
        u32             version, 0
        u64             levels of LoD, 0: of sequences, which parameters have not
        u32             version, 0
        i32             length of what follows
        TensorDesc      1 data_type  2* dims
        bytes           elements, little-endian
    NAME.json           the program (PIR): its parameters are operators ``p`` (`program`)
    NAME.pdmodel        the program before 3.0, a protobuf message: its persistable variables

Names are the program's: ``linear_0.w_0``. Without a program beside them tensors are numbered, which is said. A folder
is the model in it, where there is one.

Sources: paddle/phi/core/framework (dense_tensor_serialize.cc, framework.proto), paddle/fluid/pir/serialize_deserialize.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.dtypes import DType
from ckptconv.core.notes import Notes
from ckptconv.core.report import Finding
from ckptconv.core.tensor import LazyTensor, TensorInfo, in_file
from ckptconv.errors import LimitError, UnsupportedError, located
from ckptconv.formats.graph_notes import stays_behind
from ckptconv.formats.paddle.program import bad, names_in_json, names_in_message
from ckptconv.io.folder import Folder
from ckptconv.io.forward import Forward
from ckptconv.io.limits import MAX_DIM, MAX_RANK, MAX_SAFETENSORS_HEADER, MAX_TENSORS
from ckptconv.io.protobuf import signed
from ckptconv.io.varint import varint

if TYPE_CHECKING:
    from ckptconv.io.source import Source

DTYPES = {
    0: DType.BOOL, 1: DType.I16, 2: DType.I32, 3: DType.I64, 4: DType.F16, 5: DType.F32, 6: DType.F64, 20: DType.U8,
    21: DType.I8, 22: DType.BF16, 23: DType.C64, 24: DType.C128, 32: DType.F8_E4M3, 33: DType.F8_E5M2,
}  # fmt: skip
"""``VarType.Type``."""

SUFFIX = ".pdiparams"
PROGRAMS = (".json", ".pdmodel")
START = bytes(16)
"""Version, levels, version."""

MAX_DESC = 11 * (MAX_RANK + 2)


def claims(source: Source | Folder) -> bool:
    """Whether it starts with the header of a tensor, or is a folder with one such file."""
    if isinstance(source, Folder):
        name = _in_folder(source)
        return name is not None and claims(source.open(name))
    if source.size < len(START) + 8 or bytes(source.read_at(0, len(START))) != START:
        return False
    length, first = int.from_bytes(source.read_at(16, 4), "little"), bytes(source.read_at(20, 4))
    return (
        2 <= length <= MAX_DESC and first[0] == 0x08 and first[1] in DTYPES and (length == 2 or first[2] in b"\x10\x12")
    )


def read(source: Source | Folder) -> Checkpoint:
    """Open the model: the header of each tensor, and the names that the program beside them has.

    Raises CorruptFileError, LimitError, UnsupportedError.
    """
    if not isinstance(source, Folder):
        return _read(Folder.around(source), source)
    name = _in_folder(source)
    if name is None:
        raise UnsupportedError(f"there is no {SUFFIX}, or several, in it", hint="name a file inside it")
    weights = source.open(name)
    with located(weights.path):
        return _read(source, weights)


def _in_folder(folder: Folder) -> str | None:
    found = [name for name in folder.names if name.endswith(SUFFIX)]
    return found[0] if len(found) == 1 else None


def _read(folder: Folder, source: Source) -> Checkpoint:
    file = Forward(source, 0, bad, MAX_SAFETENSORS_HEADER)
    tensors: list[LazyTensor] = []
    while file.left:
        if len(tensors) >= MAX_TENSORS:
            raise LimitError(f"it has more than {MAX_TENSORS:,} tensors")
        tensors.append(_tensor(file, len(tensors)))
    if not tensors:
        raise bad("it has no tensors")
    names, findings = _names(folder, source.path.name.removesuffix(SUFFIX), len(tensors))
    return Checkpoint(
        dict(zip(names, tensors, strict=True)), format="paddle", notes=Notes(source="paddle"), findings=findings,
        file=folder,
    )  # fmt: skip


def _names(folder: Folder, stem: str, count: int) -> tuple[list[str], tuple[Finding, ...]]:
    """The names that the program has, and what is to be said of them."""
    program = next((stem + suffix for suffix in PROGRAMS if stem + suffix in folder.names), None)
    if program is None:
        message = (
            f"the names are in the program, {stem}.json or {stem}.pdmodel, which is not beside it: tensors are numbered"
        )
        return [str(index) for index in range(count)], (Finding("no-names", "warning", "", message),)
    document = folder.open(program)
    with located(document.path):
        names = names_in_json(document) if program.endswith(PROGRAMS[0]) else names_in_message(document)
    if len(names) != count:
        raise bad(f"it has {count:,} tensors, and the program beside it, {program!r}, names {len(names):,}")
    told = stays_behind(f"the program in {program!r}")
    return sorted(names, key=_in_utf8), (told,)


def _in_utf8(name: str) -> bytes:
    """The bytes by which PaddlePaddle sorts names; JSON can give half of a surrogate pair, which UTF-8 has not."""
    return name.encode("utf-8", "surrogatepass")


def _tensor(file: Forward, index: int) -> LazyTensor:
    if file.take(len(START)) != START:
        raise bad(f"the tensor {index:,} is of another version than 0, or has levels of sequences")
    code, shape = _description(file.take(file.count("the length of a description", MAX_DESC)), index)
    if code not in DTYPES:
        raise UnsupportedError(
            f"the tensor {index:,} has the element type {code}, which PaddlePaddle 3.3 does not know",
            hint="the file is damaged, or newer than this ckptconv",
        )
    if prod(shape) * 128 > MAX_DIM:
        raise bad(f"the tensor {index:,} has the shape {list(shape[:8])}")
    info = TensorInfo.of(DTYPES[code], shape)
    return in_file(info, file.span(info.nbytes), (id(file.source), index))


def _description(data: bytes, index: int) -> tuple[int, tuple[int, ...]]:
    """Element type and shape of a TensorDesc."""
    code, sizes, at = -1, list[int](), 0
    try:
        while at < len(data):
            tag, at = varint(data, at)
            value, at = varint(data, at)
            if tag == 0x08:
                code = value
            elif tag == 0x10:
                sizes.append(signed(value))
            elif tag == 0x12 and value <= len(data) - at:
                end = at + value
                while at < end:
                    size, at = varint(data, at)
                    sizes.append(signed(size))
            else:
                raise bad(f"the description of the tensor {index:,} has another field")
    except (IndexError, OverflowError):
        raise bad(f"the description of the tensor {index:,} is cut short") from None
    if len(sizes) > MAX_RANK or min(sizes, default=0) < 0:
        raise bad(f"the tensor {index:,} has the shape {sizes[:8]}")
    return code, tuple(sizes)
