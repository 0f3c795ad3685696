"""What else a file of pickles is to those who load it.

torch.load takes a file that it can open by its path for a tar archive first, by the checksum of its first 512 bytes,
and Python's zipfile (Keras, Stable-Baselines3) takes any that ends as an archive does: either loads other pickles than
those at the start, so that such a file is refused. What simply follows is loaded by whoever calls ``pickle.load``
again.

The other way round, any file may be pickles too: torch.load takes what is not an archive for them, and the header of a
safetensors file, an ONNX model or a member's name in a tar archive can be written so that opcodes skip it.

Sources: torch/serialization.py (`_legacy_load`); CPython's Lib/tarfile.py (`calc_chksums`), Lib/zipfile
(`_EndRecData`).
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from ckptconv.core.metadata import RUNS
from ckptconv.errors import CkptconvError, CorruptFileError
from ckptconv.formats.torch.pickle import Machine, PickleStream
from ckptconv.io.tar import BLOCK
from ckptconv.io.zip import CENTRAL_MAGIC, END, END_MAGIC, FULL16

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ckptconv.formats.torch.pickle import Constructors, Elided
    from ckptconv.io.source import Source

MOST = 1000
"""Pickles that are followed after the first; no honest file has one."""

MOST_SHOWN = 200
"""Characters of a name that an error shows."""

MOST_CUT = 1 << 20
"""Bytes of a pickle without an end that are followed."""

_ARCHIVES = (".keras", ".npz", ".zip")


def refuse_tar(source: Source) -> None:
    """Raise CorruptFileError where the file is a tar archive as well."""
    if _starts_as_tar(source):
        raise CorruptFileError("it is a tar archive as well, which torch.load would read", hint="do not trust it")


def refuse_pickle(source: Source, makers: Callable[[], Constructors]) -> None:
    """Raise CorruptFileError where a file of another format is pickles as well that would make calls: who goes by its
    name, or loads whatever passes, would run them. Raises LimitError.
    """
    stream = PickleStream(source, 0, source.size)
    for _ in range(MOST):
        before = stream.position
        data, elided = stream.as_far_as_it_goes(MOST_CUT)
        machine = Machine(data, makers(), elided)
        with suppress(CkptconvError):
            machine.run()
        if calls := [thing.name for thing in machine.things if thing.how in RUNS]:
            called = calls[0][:MOST_SHOWN]
            raise CorruptFileError(f"it is a pickle as well, which calls {called!r}", hint="do not trust it")
        if stream.position in (before, source.size):
            return


def refuse_zip(source: Source, stream: PickleStream) -> None:
    """Raise CorruptFileError where the file ends as a zip archive. Costs a read of its last bytes, and is done only
    where something follows what was read, or where others take its name for an archive's.
    """
    if (stream.left or source.path.suffix.lower() in _ARCHIVES) and _ends_as_zip(source):
        raise CorruptFileError("it ends as a zip archive, which others would read", hint="do not trust it")


def _starts_as_tar(source: Source) -> bool:
    if source.size < BLOCK:
        return False
    header = bytes(source.read_at(0, BLOCK))
    said = header[148:156].strip(b" \0")
    if not said or said.strip(b"01234567"):
        return False
    counted = header[:148] + b" " * 8 + header[156:]
    return int(said, 8) in (sum(counted), sum(byte - 256 * (byte > 127) for byte in counted))


def _ends_as_zip(source: Source) -> bool:
    size = min(source.size, END.size + FULL16)
    tail = bytes(source.read_at(source.size - size, size))
    at = tail.rfind(END_MAGIC)
    if at < 0 or at + END.size > len(tail):
        return False
    *_, length, _, _ = END.unpack_from(tail, at)
    start = source.size - size + at - length
    return start >= 0 and bytes(source.read_at(start, min(4, length))) == CENTRAL_MAGIC


def following(stream: PickleStream, makers: Callable[[], Constructors]) -> list[Machine]:
    """The pickles after the first, as far as there are any that say more than a plain value. Raises LimitError."""
    machines: list[Machine] = []
    for _ in range(MOST):
        before = stream.position
        if not stream.left:
            break
        try:
            data, elided = stream.elided()
        except CkptconvError:  # cut short, or none: pickle.load calls what stands before that
            stream.position = before
            data, elided = stream.as_far_as_it_goes(MOST_CUT)
        machine = _run(data, elided, makers())
        if machine is None:
            stream.position = before
            break
        machines.append(machine)
    return [machine for machine in machines if machine.globals or machine.things]


def _run(data: bytes, elided: Sequence[Elided], makers: Constructors) -> Machine | None:
    """The machine that followed a pickle; None where it cannot be followed and called nothing before."""
    machine = Machine(data, makers, elided)
    try:
        machine.run()
    except CkptconvError:
        return machine if machine.things else None
    return machine
