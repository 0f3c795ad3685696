"""Reader of CTranslate2's model.bin.

    u32            version, 2 to 6
    text           the model's class: WhisperSpec, TransformerSpec, …
    u32            the revision of that class
    u32            number of variables
    variables      one after the other:
        text       name
        u8 u32 …   number of dimensions, and their sizes
        u8         element type; before version 4, bytes of an element: 4 is F32, 2 I16, 1 I8
        u32        number of bytes; before version 4, of elements
        bytes      elements, little-endian
    u32            number of aliases, since version 3
    aliases        text: another name; text: the variable's name

A text is a u16 of its length, UTF-8, and a NUL, which counts. Aliases are ties; an alias of a quantized variable is
also one of its scale. Settings of the network are variables as well: numbers, and texts as I8.

Integers ``w`` with ``w_scale`` beside them are floats times the scale: ``--dequantize`` multiplies by its inverse, as
CTranslate2 does. The scale is called ``w_inverse_scale`` here: in other libraries ``w_scale`` is a factor to multiply
by, and a converted file would be mistaken for theirs. A folder with a model.bin stands for that file.

Sources: ctranslate2/specs/model_spec.py (`_serialize`), src/models/model.cc (`Model::load`), src/ops/dequantize_cpu.cc.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.dtypes import DType
from ckptconv.core.metadata import StateDict
from ckptconv.core.notes import WITH_SCALES, Notes, QuantizedWeight
from ckptconv.core.tensor import in_file
from ckptconv.errors import CorruptFileError, UnsupportedError, located
from ckptconv.formats.tensors.headers import header_info
from ckptconv.io.folder import Folder
from ckptconv.io.forward import Forward
from ckptconv.io.limits import MAX_NAME, MAX_RANK, MAX_SAFETENSORS_HEADER

if TYPE_CHECKING:
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.io.source import Source

VERSIONS = range(2, 7)
DTYPES = {0: DType.F32, 1: DType.I8, 2: DType.I16, 3: DType.I32, 4: DType.F16, 5: DType.BF16}
"""The element types, by `DataType` (include/ctranslate2/types.h)."""

BY_SIZE = {4: DType.F32, 2: DType.I16, 1: DType.I8}
"""The element types before version 4, by the bytes of an element."""

FILE = "model.bin"
_SCALE, _INVERSE_SCALE = "_scale", "_inverse_scale"
_MIN_SIZE = 7
"""The bytes of the version, of the first text's length, and of one character."""


def bad(what: str) -> CorruptFileError:
    """The error for a file that contradicts the format."""
    return CorruptFileError(f"the CTranslate2 model is invalid: {what}")


def claims(source: Source | Folder) -> bool:
    """Whether it begins with a version and the name of a class; or is a folder with such a file."""
    if isinstance(source, Folder):
        return FILE in source.names and claims(source.open(FILE))
    if source.size < _MIN_SIZE:
        return False
    head = bytes(source.read_at(0, _MIN_SIZE - 1))
    length = int.from_bytes(head[4:], "little")
    if int.from_bytes(head[:4], "little") not in VERSIONS or not 2 <= length <= min(64, source.size - _MIN_SIZE):
        return False
    name = bytes(source.read_at(_MIN_SIZE - 1, length))
    return name[-1:] == b"\0" and name[:-1].isalnum() and name[:1].isalpha()


def read(source: Source | Folder) -> Checkpoint:
    """Open the model: read the header of each variable. Raises CorruptFileError, LimitError, UnsupportedError."""
    if not isinstance(source, Folder):
        return _read(source)
    if FILE not in source.names:
        raise UnsupportedError(f"there is no {FILE} in it", hint="name a file in it")
    file = source.open(FILE)
    with located(file.path):
        return _read(file)


def _read(source: Source) -> Checkpoint:
    if not claims(source):
        raise bad("it does not begin with a version and a name")
    file = Forward(source, 0, bad, MAX_SAFETENSORS_HEADER)
    version = file.number(4)
    spec, revision = _read_text(file), file.number(4)
    tensors: dict[str, LazyTensor] = {}
    for _ in range(file.entries("variables", 4, 9)):
        _add(tensors, _read_text(file), _read_variable(file, version, len(tensors)))
    if version >= 3:
        for _ in range(file.entries("aliases", 4, 6)):
            _add_alias(tensors, _read_text(file), _read_text(file))
    if file.left:
        raise bad(f"{file.left:,} bytes follow its aliases")
    tensors = _rename_scales(tensors)
    return Checkpoint(
        tensors, root={"state_dict": StateDict(container="dict"), "spec": spec, "revision": revision},
        format="ctranslate2", notes=Notes(source="ctranslate2", quantized=_quantized_weights(tensors)), file=source,
    )  # fmt: skip


def _read_text(file: Forward) -> str:
    length = file.number(2)
    data = file.take(length) if 1 <= length <= MAX_NAME else b""
    if data[-1:] != b"\0":
        raise bad(f"a text of {length:,} bytes does not end in NUL")
    try:
        return data[:-1].decode("utf-8")
    except UnicodeDecodeError:
        raise bad("a text is not UTF-8") from None


def _read_variable(file: Forward, version: int, index: int) -> LazyTensor:
    whose = f"the variable {index:,}"
    rank = file.number(1)
    if rank > MAX_RANK:
        raise bad(f"{whose} has {rank:,} dimensions")
    shape = tuple(file.number(4) for _ in range(rank))
    code, nbytes = file.number(1), file.number(4)
    dtypes = DTYPES if version >= 4 else BY_SIZE
    info = header_info(whose, code, shape, dtypes=dtypes, library="CTranslate2 4.8", bad=bad)
    if (nbytes if version >= 4 else nbytes * code) != info.nbytes:
        raise bad(f"{whose} is {info.dtype} of the shape {list(shape)}, and has {nbytes:,} bytes or elements")
    return in_file(info, file.span(info.nbytes), (id(file.source), index))


def _add(tensors: dict[str, LazyTensor], name: str, tensor: LazyTensor) -> None:
    if name in tensors:
        raise bad(f"the name {name!r} comes twice")
    tensors[name] = tensor


def _add_alias(tensors: dict[str, LazyTensor], alias: str, name: str) -> None:
    if name not in tensors:
        raise bad(f"{alias!r} is another name for {name!r}, which it has not")
    _add(tensors, alias, tensors[name])
    scale = f"{name}{_SCALE}"
    if scale in tensors and f"{alias}{_SCALE}" not in tensors:
        tensors[f"{alias}{_SCALE}"] = tensors[scale]


def _integers_with_scales(tensors: dict[str, LazyTensor]) -> list[str]:
    """The names of integers with scales: one scale for each row of I8, one for all of I16."""
    integers = [name for name, tensor in tensors.items() if tensor.info.dtype in (DType.I8, DType.I16)]
    return [name for name in integers if f"{name}{_SCALE}" in tensors]


def _rename_scales(tensors: dict[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The tensors, with scales under the name that we give them."""
    new_names = {f"{name}{_SCALE}": f"{name}{_INVERSE_SCALE}" for name in _integers_with_scales(tensors)}
    if taken := [name for name in new_names.values() if name in tensors]:
        raise bad(f"the name {taken[0]!r} is for a scale, and something else has it")
    return {new_names.get(name, name): tensor for name, tensor in tensors.items()}


def _quantized_weights(tensors: dict[str, LazyTensor]) -> tuple[QuantizedWeight, ...]:
    details = {"axis": 0, "inverse": True}
    names = [name.removesuffix(_INVERSE_SCALE) for name in tensors if name.endswith(_INVERSE_SCALE)]
    return tuple(
        QuantizedWeight(name, "affine", {"values": name, "scale": f"{name}{_INVERSE_SCALE}"}, details, WITH_SCALES)
        for name in names
        if name in tensors
    )
