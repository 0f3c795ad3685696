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

Names are the program's: ``linear_0.w_0``. A program whose variables have other shapes is another model's, and refused;
other types are told. Without a program beside them tensors are numbered, which is said. A folder is the model in it,
where there is one.

Sources: paddle/phi/core/framework (dense_tensor_serialize.cc, framework.proto), paddle/fluid/pir/serialize_deserialize.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.notes import Notes
from ckptconv.core.report import Finding
from ckptconv.core.tensor import LazyTensor, in_file
from ckptconv.core.text import listed
from ckptconv.errors import CorruptFileError, LimitError, UnsupportedError, located
from ckptconv.formats.graphs.notes import stays_behind
from ckptconv.formats.paddle.program import MAX_DESC, variables_in_json, variables_in_message
from ckptconv.formats.paddle.variable import DTYPES, Variable, bad, description
from ckptconv.formats.tensors.headers import header_info
from ckptconv.io.folder import Folder
from ckptconv.io.forward import Forward
from ckptconv.io.limits import MAX_SAFETENSORS_HEADER, MAX_TENSORS

if TYPE_CHECKING:
    from ckptconv.io.source import Source

SUFFIX = ".pdiparams"
PROGRAMS = (".json", ".pdmodel")
START = bytes(16)
"""Version, levels, version."""


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
        raise UnsupportedError(f"there is no {SUFFIX}, or several, in it", hint="name a file in it")
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
    stem = source.path.name.removesuffix(SUFFIX)
    program, variables = _variables(folder, stem)
    if program:
        names = [one.name for one in variables]
        findings = [*_compared(tensors, program, variables), stays_behind(f"the program in {program!r}")]
    else:
        message = (
            f"the names are in the program, {stem}.json or {stem}.pdmodel, which is not beside it: tensors are numbered"
        )
        names, findings = list(map(str, range(len(tensors)))), [Finding("no-names", "warning", "", message)]
    return Checkpoint(
        dict(zip(names, tensors, strict=True)), format="paddle", notes=Notes(source="paddle"),
        findings=tuple(findings), file=folder,
    )  # fmt: skip


def _variables(folder: Folder, stem: str) -> tuple[str, list[Variable]]:
    """The program beside the weights, and its parameters in the order of theirs; "" where there is none."""
    program = next((stem + suffix for suffix in PROGRAMS if stem + suffix in folder.names), "")
    if not program:
        return "", []
    document = folder.open(program)
    with located(document.path):
        found = variables_in_json(document) if program.endswith(PROGRAMS[0]) else variables_in_message(document)
    return program, sorted(found, key=lambda one: _in_utf8(one.name))


def _compared(tensors: list[LazyTensor], program: str, variables: list[Variable]) -> list[Finding]:
    """What is to be said of types. Raises CorruptFileError where these are tensors of another program."""
    if len(variables) != len(tensors):
        raise bad(f"it has {len(tensors):,} tensors, and the program beside it, {program!r}, names {len(variables):,}")
    pairs = list(zip(variables, (tensor.info for tensor in tensors), strict=True))
    for index, (one, info) in enumerate(pairs):
        if not one.has(info.shape):
            message = (
                f"the tensor {index:,} has the shape {list(info.shape)}, and {one.name!r}, which it should be by the "
                f"program beside it, {program!r}, {list(one.shape)}"
            )
            raise CorruptFileError(message, hint="they are of two models, or of two versions of one: copy both again")
    others = [
        f"{one.name!r} is {info.dtype}, not {one.dtype}" for one, info in pairs if one.dtype not in (None, info.dtype)
    ]
    if not others:
        return []
    message = f"element types that the program beside it, {program!r}, does not say: {listed(others, 4)}"
    return [Finding("types", "warning", "", message)]


def _in_utf8(name: str) -> bytes:
    """The bytes by which PaddlePaddle sorts names; JSON can give half of a surrogate pair, which UTF-8 has not."""
    return name.encode("utf-8", "surrogatepass")


def _tensor(file: Forward, index: int) -> LazyTensor:
    whose = f"the tensor {index:,}"
    if file.take(len(START)) != START:
        raise bad(f"{whose} is of another version than 0, or has levels of sequences")
    data = file.take(file.count("the length of a description", MAX_DESC))
    code, shape = description(data, whose)
    info = header_info(whose, code, shape, dtypes=DTYPES, library="PaddlePaddle 3.3", bad=bad)
    return in_file(info, file.span(info.nbytes), (id(file.source), index))
