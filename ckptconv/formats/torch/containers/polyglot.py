"""Polyglot files: pickles that another loader reads as something else, and files of other formats that are pickles too.

torch.load first tries whether a file is a tar archive, by the checksum of its first 512 bytes. Python's zipfile (Keras,
Stable-Baselines3) opens any file that ends like a zip archive. Both would load other pickles than the one at the start,
so such files are refused. Further pickles after the first are loaded by a program that calls ``pickle.load`` again.

The other way round, a file of any format may be a pickle as well: torch.load takes everything that is not an archive
for one, and the header of a safetensors file, an ONNX model or a member's name in a tar archive can be written so that
opcodes skip it.

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

MAX_PICKLES = 1000
"""Pickles after the first that are run; no honest file has any."""

MAX_SHOWN = 200
"""Characters of a name that an error shows."""

MAX_TRUNCATED = 1 << 20
"""Bytes of a pickle without an end that are run."""

_ARCHIVES = (".keras", ".npz", ".zip")


def refuse_tar(source: Source) -> None:
    """Raise CorruptFileError if the file is a tar archive as well."""
    if _starts_like_tar(source):
        raise CorruptFileError("it is a tar archive as well, which torch.load would read", hint="do not trust it")


def refuse_pickle(source: Source, make_constructors: Callable[[], Constructors]) -> None:
    """Raise CorruptFileError if a file in another format is also a pickle that would make calls: a program that goes by
    the file's name, or just tries to unpickle it, would run them. Raises LimitError.
    """
    stream = PickleStream(source, 0, source.size)
    for _ in range(MAX_PICKLES):
        before = stream.position
        data, elided = stream.as_far_as_it_goes(MAX_TRUNCATED)
        machine = Machine(data, make_constructors(), elided)
        with suppress(CkptconvError):
            machine.run()
        if calls := [obj.name for obj in machine.unbuilt if obj.how in RUNS]:
            called = calls[0][:MAX_SHOWN]
            raise CorruptFileError(f"it is a pickle as well, which calls {called!r}", hint="do not trust it")
        if stream.position in (before, source.size):
            return


def refuse_zip(source: Source, stream: PickleStream) -> None:
    """Raise CorruptFileError if the file ends like a zip archive. That costs a read of its last bytes, so it is checked
    only if something follows what was read, or if the file's suffix is that of an archive.
    """
    if (stream.left or source.path.suffix.lower() in _ARCHIVES) and _ends_like_zip(source):
        raise CorruptFileError("it ends as a zip archive, which others would read", hint="do not trust it")


def _starts_like_tar(source: Source) -> bool:
    if source.size < BLOCK:
        return False
    header = bytes(source.read_at(0, BLOCK))
    checksum = header[148:156].strip(b" \0")
    if not checksum or checksum.strip(b"01234567"):
        return False
    counted = header[:148] + b" " * 8 + header[156:]
    unsigned, signed = sum(counted), sum(byte - 256 * (byte > 127) for byte in counted)  # tarfile accepts both
    return int(checksum, 8) in (unsigned, signed)


def _ends_like_zip(source: Source) -> bool:
    size = min(source.size, END.size + FULL16)
    tail = bytes(source.read_at(source.size - size, size))
    at = tail.rfind(END_MAGIC)
    if at < 0 or at + END.size > len(tail):
        return False
    *_, length, _, _ = END.unpack_from(tail, at)
    start = source.size - size + at - length
    return start >= 0 and bytes(source.read_at(start, min(4, length))) == CENTRAL_MAGIC


def following(stream: PickleStream, make_constructors: Callable[[], Constructors]) -> list[Machine]:
    """Run the pickles after the first; the interpreters of those that are more than plain values. Raises LimitError."""
    machines: list[Machine] = []
    for _ in range(MAX_PICKLES):
        before = stream.position
        if not stream.left:
            break
        try:
            data, elided = stream.elided()
        except CkptconvError:  # truncated, or no pickle: pickle.load makes the calls that come before the end
            stream.position = before
            data, elided = stream.as_far_as_it_goes(MAX_TRUNCATED)
        machine = _run(data, elided, make_constructors())
        if machine is None:
            stream.position = before
            break
        machines.append(machine)
    return [machine for machine in machines if machine.globals or machine.unbuilt]


def _run(data: bytes, elided: Sequence[Elided], constructors: Constructors) -> Machine | None:
    """The interpreter that ran a pickle; None if that is malformed and called nothing before it broke off."""
    machine = Machine(data, constructors, elided)
    try:
        machine.run()
    except CkptconvError:
        return machine if machine.unbuilt else None
    return machine
