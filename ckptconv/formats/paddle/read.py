"""Reader of PaddlePaddle's inference models, which ``paddle.jit.save`` and ``save_inference_model`` write.

    NAME.pdiparams      tensors, one after the other, without names, in the order of their sorted names:
        u32             version, 0
        u64             levels of LoD, 0: only sequences have them, parameters do not
        u32             version, 0
        i32             length of what follows
        TensorDesc      1 data_type  2* dims
        bytes           elements, little-endian
    NAME.json           the program (PIR): its parameters are operators ``p`` (`program`)
    NAME.pdmodel        the program before 3.0, a protobuf message: its persistable variables

Names are the program's: ``linear_0.w_0``. A program whose variables have other shapes belongs to another model, and is
refused; other types are reported. Without a program, tensors are numbered, and that is reported. A folder with one such
model stands for it.

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
from ckptconv.formats.paddle.variable import DTYPES, Variable, bad, parse_description
from ckptconv.formats.tensors.headers import header_info
from ckptconv.io.folder import Folder
from ckptconv.io.forward import Forward
from ckptconv.io.limits import MAX_SAFETENSORS_HEADER, MAX_TENSORS

if TYPE_CHECKING:
    from ckptconv.io.source import Source

SUFFIX = ".pdiparams"
PROGRAMS = (".json", ".pdmodel")
START = bytes(16)
"""The header of a tensor: version, levels, version."""


def claims(source: Source | Folder) -> bool:
    """Whether it starts with a tensor's header, or is a folder with one such file."""
    if isinstance(source, Folder):
        name = _model_in(source)
        return name is not None and claims(source.open(name))
    if source.size < len(START) + 8 or bytes(source.read_at(0, len(START))) != START:
        return False
    length, first = int.from_bytes(source.read_at(16, 4), "little"), bytes(source.read_at(20, 4))
    return (
        2 <= length <= MAX_DESC and first[0] == 0x08 and first[1] in DTYPES and (length == 2 or first[2] in b"\x10\x12")
    )


def read(source: Source | Folder) -> Checkpoint:
    """Open the model: read the header of each tensor, and the program beside the file for the names.

    Raises CorruptFileError, LimitError, UnsupportedError.
    """
    if not isinstance(source, Folder):
        return _read(Folder.around(source), source)
    name = _model_in(source)
    if name is None:
        raise UnsupportedError(f"there is no {SUFFIX}, or several, in it", hint="name a file in it")
    weights = source.open(name)
    with located(weights.path):
        return _read(source, weights)


def _model_in(folder: Folder) -> str | None:
    found = [name for name in folder.names if name.endswith(SUFFIX)]
    return found[0] if len(found) == 1 else None


def _read(folder: Folder, source: Source) -> Checkpoint:
    file = Forward(source, 0, bad, MAX_SAFETENSORS_HEADER)
    tensors: list[LazyTensor] = []
    while file.left:
        if len(tensors) >= MAX_TENSORS:
            raise LimitError(f"it has more than {MAX_TENSORS:,} tensors")
        tensors.append(_read_tensor(file, len(tensors)))
    if not tensors:
        raise bad("it has no tensors")
    stem = source.path.name.removesuffix(SUFFIX)
    program, variables = _read_program(folder, stem)
    if program:
        names = [variable.name for variable in variables]
        findings = [*_compare(tensors, program, variables), stays_behind(f"the program in {program!r}")]
    else:
        message = (
            f"the names are in the program, {stem}.json or {stem}.pdmodel, which is not beside it: tensors are numbered"
        )
        names, findings = list(map(str, range(len(tensors)))), [Finding("no-names", "warning", "", message)]
    return Checkpoint(
        dict(zip(names, tensors, strict=True)), format="paddle", notes=Notes(source="paddle"),
        findings=tuple(findings), file=folder,
    )  # fmt: skip


def _read_program(folder: Folder, stem: str) -> tuple[str, list[Variable]]:
    """The name of the program's file ("" if there is none), and its parameters, in the order of the weights."""
    program = next((stem + suffix for suffix in PROGRAMS if stem + suffix in folder.names), "")
    if not program:
        return "", []
    document = folder.open(program)
    with located(document.path):
        variables = variables_in_json(document) if program.endswith(PROGRAMS[0]) else variables_in_message(document)
    return program, sorted(variables, key=lambda variable: _sort_key(variable.name))


def _compare(tensors: list[LazyTensor], program: str, variables: list[Variable]) -> list[Finding]:
    """A finding if types differ from the program's. Raises CorruptFileError if the program is of another model."""
    if len(variables) != len(tensors):
        raise bad(f"it has {len(tensors):,} tensors, and the program beside it, {program!r}, names {len(variables):,}")
    pairs = list(zip(variables, (tensor.info for tensor in tensors), strict=True))
    for index, (variable, info) in enumerate(pairs):
        if not variable.fits(info.shape):
            message = (
                f"the tensor {index:,} has the shape {list(info.shape)}, and {variable.name!r}, which it should be by "
                f"the program beside it, {program!r}, {list(variable.shape)}"
            )
            raise CorruptFileError(message, hint="they are of two models, or of two versions of one: copy both again")
    differences = [
        f"{variable.name!r} is {info.dtype}, not {variable.dtype}"
        for variable, info in pairs
        if variable.dtype not in (None, info.dtype)
    ]
    if not differences:
        return []
    message = f"element types that the program beside it, {program!r}, does not say: {listed(differences, 4)}"
    return [Finding("types", "warning", "", message)]


def _sort_key(name: str) -> bytes:
    """PaddlePaddle sorts names by their UTF-8 bytes. A name in JSON may contain half of a surrogate pair."""
    return name.encode("utf-8", "surrogatepass")


def _read_tensor(file: Forward, index: int) -> LazyTensor:
    whose = f"the tensor {index:,}"
    if file.take(len(START)) != START:
        raise bad(f"{whose} is of another version than 0, or has levels of sequences")
    data = file.take(file.count("the length of a description", MAX_DESC))
    code, shape = parse_description(data, whose)
    info = header_info(whose, code, shape, dtypes=DTYPES, library="PaddlePaddle 3.3", bad=bad)
    return in_file(info, file.span(info.nbytes), (id(file.source), index))
