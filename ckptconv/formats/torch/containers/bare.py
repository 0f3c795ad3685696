"""Reader for a bare pickle, written by ``pickle.dump``. Arrays and tensors in it become the checkpoint's tensors.

There is no container. The opcodes hold numpy arrays as bytes, and each torch storage as a whole file in the
stacked-pickle format (`legacy`), because storages are pickled as ``torch.storage._load_from_bytes(file)``. Long runs of
bytes are not read but referred to by their place in the file. Detectron2's ``.pkl``, PaddlePaddle's ``.pdparams``, and
the parameters of Haiku and JAX are such files.

A pickle of protocol 2 to 5 is recognised by its first two bytes. One of protocol 0 or 1 has no such mark, and is
recognised only if it is a single pickle from its first byte to its last. joblib's files, with arrays between the
opcodes, are read by `others.joblib`.

`pickled` has the objects that are built. Sources: CPython's ``pickletools``; torch/storage.py (`__reduce__`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.errors import CkptconvError, UnsupportedError
from ckptconv.formats.torch.containers import legacy, polyglot
from ckptconv.formats.torch.containers.arrays_beside import attach_arrays
from ckptconv.formats.torch.containers.embedded import unfold_embedded
from ckptconv.formats.torch.containers.pickled import follow
from ckptconv.formats.torch.pickle import Budget, Elided, Global, Machine, PickleStream, Value
from ckptconv.formats.torch.tree.assemble import assemble
from ckptconv.formats.torch.tree.build import build_tree

if TYPE_CHECKING:
    from ckptconv.core.checkpoint import Checkpoint, OpenFile
    from ckptconv.core.report import Finding
    from ckptconv.formats.torch.containers.pickled import BareConstructors
    from ckptconv.io.source import Source

WITH_PROTOCOL = tuple(b"\x80" + bytes([protocol]) for protocol in (2, 3, 4, 5))
FIRST_WITHOUT_PROTOCOL = b"(]}c"
"""The first opcode of a pickle of protocol 0 or 1, if it is a container or an object of some class."""

WRAPPERS = ("NDArrayWrapper", "NumpyArrayWrapper", "ZNDArrayWrapper")
"""joblib's classes. When such an object gets its state, joblib reads an array, from this file or another."""

OPCODES = "the opcodes of a pickle"
"""The key under which `opcodes` caches its result in the source."""


def claims(source: Source) -> bool:
    """Whether a file starts like a pickle, or without a protocol mark is one to its end."""
    start = bytes(source.read_at(0, min(2, source.size)))
    if start in WITH_PROTOCOL:
        return True
    if not start or start[0] not in FIRST_WITHOUT_PROTOCOL:
        return False
    stream = PickleStream(source, 0, source.size)
    try:
        stream.elided()
    except CkptconvError:
        return False
    return not stream.left


def read(source: Source) -> Checkpoint:
    """Open the file. Reads the pickle without its long runs of bytes, and the small pickles before the elements of each
    storage.

    Raises CorruptFileError, LimitError, UnsupportedError, UnsafeError (a tensor of the model depends on a call).
    """
    polyglot.refuse_tar(source)
    stream, data, elided = opcodes(source)
    source.parsed.pop(OPCODES, None)
    value, machine, constructors = follow(data, elided)
    if any(is_wrapper(name) for name in machine.globals):
        raise UnsupportedError("this is a joblib file, in which arrays stand between the opcodes", hint="--from joblib")
    polyglot.refuse_zip(source, stream)
    file, findings = attach_arrays(value, machine, constructors, source)
    return checkpoint_of(file, stream, value, machine, constructors, len(data), "pickle", findings)


def opcodes(source: Source) -> tuple[PickleStream, bytes, list[Elided]]:
    """The first pickle without its long runs of bytes, as `PickleStream.elided` gives it, and the stream after it.
    Cached in the source for the format that will read it. Raises CorruptFileError, LimitError.
    """

    def split() -> tuple[PickleStream, bytes, list[Elided]]:
        stream = PickleStream(source, 0, source.size)
        return stream, *stream.elided()

    return source.once(OPCODES, split)


def checkpoint_of(
    file: OpenFile,
    stream: PickleStream,
    value: Value,
    machine: Machine,
    constructors: BareConstructors,
    size: int,
    format: str,
    findings: tuple[Finding, ...] = (),
) -> Checkpoint:
    """The checkpoint of the `value` that a pickle with `size` bytes of opcodes has built. Raises what `read` raises."""
    embedded = unfold_embedded(value, machine)
    budget = Budget(size + embedded.size)
    findings = (*findings, *embedded.findings, *legacy.trailing(stream, "opcode"))
    return assemble(
        build_tree(value, budget), embedded.place(constructors.place), budget, format=format,
        machines=[machine, *polyglot.following(stream, legacy.LegacyConstructors)], file=file, findings=findings,
        own=lambda name: name in constructors.answered, within=embedded.machines,
    )  # fmt: skip


def is_wrapper(name: Global) -> bool:
    """Whether a name is one of joblib's wrapper classes, in any module."""
    return any(part in WRAPPERS for part in name.name.split("."))
