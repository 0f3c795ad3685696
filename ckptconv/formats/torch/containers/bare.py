"""Reader of a bare pickle: what ``pickle.dump`` wrote, with the arrays and tensors in it as the checkpoint's tensors.

There is no container: numpy's arrays stand in the opcodes as bytes, and so do torch's storages, each as a whole file of
the stacked-pickle format (`legacy`), since they are pickled as ``torch.storage._load_from_bytes(file)``. Long runs of
bytes are left in the file; a tensor's bytes are where they stand. Detectron2's ``.pkl``, PaddlePaddle's ``.pdparams``,
Haiku's and JAX's parameters are such files.

Only protocols that somebody still writes are recognised by their first byte; one of protocol 0 or 1, which has no such
byte, by being a pickle from its first byte to its last. joblib's files, in which arrays stand between the opcodes, are
`others.joblib`'s.

What it builds is `pickled`'s. Sources: CPython's ``pickletools``; torch/storage.py (`__reduce__`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.errors import CkptconvError, UnsupportedError
from ckptconv.formats.torch.containers import legacy, second
from ckptconv.formats.torch.containers.embedded import unfold_embedded
from ckptconv.formats.torch.containers.pickled import follow
from ckptconv.formats.torch.pickle import Budget, Elided, Global, Machine, PickleStream, Value
from ckptconv.formats.torch.tree.assemble import assemble
from ckptconv.formats.torch.tree.roots import plant

if TYPE_CHECKING:
    from ckptconv.core.checkpoint import Checkpoint, OpenFile
    from ckptconv.core.report import Finding
    from ckptconv.formats.torch.containers.pickled import BareConstructors
    from ckptconv.io.source import Source

WITH_PROTOCOL = tuple(b"\x80" + bytes([protocol]) for protocol in (2, 3, 4, 5))
WITHOUT = b"(]}c"
"""What a pickle of protocol 0 or 1 of a container, or of a class, starts with."""

WRAPPERS = ("NDArrayWrapper", "NumpyArrayWrapper", "ZNDArrayWrapper")
"""Classes of joblib's: it reads on, in the file or in others, where an object of one is given its state."""

OPCODES = "the opcodes of a pickle"
"""Where `opcodes` keeps them, in what a source has parsed."""


def claims(source: Source) -> bool:
    """Whether it starts as a pickle; where that says little, whether it is one to its end."""
    start = bytes(source.read_at(0, min(2, source.size)))
    if start in WITH_PROTOCOL:
        return True
    if not start or start[0] not in WITHOUT:
        return False
    stream = PickleStream(source, 0, source.size)
    try:
        stream.elided()
    except CkptconvError:
        return False
    return not stream.left


def read(source: Source) -> Checkpoint:
    """Open the file: the pickle but for its long runs of bytes, and of each storage in it the small pickles before its
    elements.

    Raises CorruptFileError, LimitError, UnsupportedError, UnsafeError (a tensor of the model hangs on a call).
    """
    second.refuse_tar(source)
    stream, data, elided = opcodes(source)
    source.parsed.pop(OPCODES, None)
    value, machine, makers = follow(data, elided)
    if any(is_wrapper(name) for name in machine.globals):
        raise UnsupportedError("this is a joblib file, in which arrays stand between the opcodes", hint="--from joblib")
    second.refuse_zip(source, stream)
    return opened(source, stream, value, machine, makers, len(data), "pickle")


def opcodes(source: Source) -> tuple[PickleStream, bytes, list[Elided]]:
    """The first pickle but for its long runs of bytes, as `PickleStream.elided` gives it, and the stream behind it;
    kept for whoever reads the file. Raises CorruptFileError, LimitError.
    """

    def stepped_over() -> tuple[PickleStream, bytes, list[Elided]]:
        stream = PickleStream(source, 0, source.size)
        return stream, *stream.elided()

    return source.once(OPCODES, stepped_over)


def opened(
    file: OpenFile,
    stream: PickleStream,
    value: Value,
    machine: Machine,
    makers: BareConstructors,
    size: int,
    format: str,
    findings: tuple[Finding, ...] = (),
) -> Checkpoint:
    """The checkpoint of what a pickle's machine has left of its `size` bytes of opcodes. Raises as `read` does."""
    embedded = unfold_embedded(value, machine)
    budget = Budget(size + embedded.size)
    findings = (*findings, *embedded.findings, *legacy.trailing(stream, "opcode"))
    return assemble(
        plant(value, budget), embedded.place(makers.place), budget, format=format,
        machines=[machine, *second.following(stream, legacy.LegacyConstructors)], file=file, findings=findings,
        own=lambda name: name in makers.answered, within=embedded.machines,
    )  # fmt: skip


def is_wrapper(name: Global) -> bool:
    """Whether it is one of joblib's, wherever it is found."""
    return any(part in WRAPPERS for part in name.name.split("."))
