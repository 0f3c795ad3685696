"""Reader of joblib's files, as scikit-learn's users save models: a pickle with arrays between its opcodes, maybe
compressed as a whole.

How the arrays stand in it is `joblib_machine`'s business. They are tensors where they have a tensor's element type, and
stay in the file; a compressed file is inflated into a temporary one first. joblib.load takes zlib, bzip2, xz, LZMA and
LZ4 for what they are; gzip is the `archive` format's. Refused by name are files of before joblib 0.10, whose arrays lie
in files beside them, or are compressed by themselves (``ZF``).

pickle.load stops at the padding before the first array. Where there is none, as before joblib 1.2 and before an array
of objects, it takes what follows for more of its opcodes: where these call and joblib.load calls nothing, the file is
refused. In an array of objects the memo's indices then mean other values, so that honest ones come to call a text, at
which it fails, and before that a ``dtype`` of no module, or a constructor of numpy's with the wrong arguments.

Sources: joblib/numpy_pickle.py, joblib/numpy_pickle_utils.py (`_detect_compressor`), joblib/compressor.py.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.core.metadata import RUNS
from ckptconv.core.report import Finding
from ckptconv.errors import CkptconvError, CorruptFileError, MissingExtraError
from ckptconv.formats.torch.containers import bare, second
from ckptconv.formats.torch.containers.legacy import LegacyConstructors
from ckptconv.formats.torch.containers.pickled import settled
from ckptconv.formats.torch.others.joblib_machine import JoblibConstructors, JoblibMachine
from ckptconv.formats.torch.pickle import Global, Machine, PickleStream, Thing
from ckptconv.io import inflated

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.formats.torch.pickle import Value
    from ckptconv.io.source import Source

_SEARCHED = 1 << 24
"""Bytes of a file in which the first wrapper is looked for where it does not end as a pickle does."""

_NAMES = tuple(name.encode() for name in bare.WRAPPERS)
_AS_LINES = tuple(f".numpy_pickle\n{name}\n".encode() for name in bare.WRAPPERS)
"""How protocols 0 and 1 name one."""


_BY_CHANCE = frozenset(
    f"a {kind.__name__}" for kind in (str, bytes, bytearray, int, float, bool, tuple, list, dict, type(None))
)
"""Values that nobody can call, as the machine describes them."""

_OF_ARRAYS = (".dtype", "numpy.ndarray", ".numeric._frombuffer")
"""What numpy's arrays of objects call, which does no harm with other arguments."""


@dataclass(slots=True)
class _PickleConstructors(LegacyConstructors):
    """What pickle.load would build, joblib's wrappers as the objects that they are to it."""

    def inside(self, value: Value) -> Iterable[Value]:
        """As everywhere; a wrapper keeps the class of its array and calls nothing."""
        kept = isinstance(value, Thing) and bare.is_wrapper(Global(*value.name.rpartition(".")[::2]))
        return () if kept else LegacyConstructors.inside(self, value)


def claims(source: Source) -> bool:
    """Whether it is a pickle that names one of joblib's wrappers, or a compressed pickle of any kind."""
    if (method := inflated.method(source)) is not None:
        try:
            data = inflated.head(source, method, 1 << 16)
        except MissingExtraError:
            return True  # its reader says what to install
        return data[:2] in bare.WITH_PROTOCOL or any(name in data for name in _AS_LINES)
    start = bytes(source.read_at(0, min(2, source.size)))
    known = start in bare.WITH_PROTOCOL
    if not known and (not start or start[0] not in bare.WITHOUT):
        return False
    data = _opcodes(source)
    return any(name in data for name in (_NAMES if known else _AS_LINES))


def _opcodes(source: Source) -> bytes:
    """Those of the file, if it is a pickle; else its first bytes."""
    try:
        return bare.opcodes(source)[1]
    except CkptconvError:
        return bytes(source.read_at(0, min(source.size, _SEARCHED)))


def read(source: Source) -> Checkpoint:
    """Open the file: the opcodes, but for long runs of bytes; what is compressed is inflated.

    Raises CorruptFileError, LimitError, UnsupportedError (a file of before 0.10), UnsafeError, MissingExtraError (LZ4).
    """
    method = inflated.method(source)
    file = source if method is None else inflated.Inflated(source, method)
    second.refuse_tar(file)
    source.parsed.pop(bare.OPCODES, None)
    stream, makers = PickleStream(file, 0, file.size), JoblibConstructors()
    machine = JoblibMachine(stream, file, makers)
    findings: tuple[Finding, ...] = ()
    if method is not None:
        message = f"compressed with {method}, it is inflated into a temporary file of {file.size:,} bytes"
        findings = (Finding("inflated", "info", "", message),)
    value = settled(machine.run(), makers, {}, 0)
    if not makers.padded and not any(thing.how in RUNS for thing in machine.things):
        _refuse_as_pickle(file, machine.kept + second.MOST_CUT)
    second.refuse_zip(file, stream)
    return bare.opened(source, stream, value, machine, makers, machine.kept, "joblib", findings)


def _refuse_as_pickle(file: Source, most: int) -> None:
    """Raise CorruptFileError where pickle.load would make calls that joblib.load does not. Raises LimitError where it
    would go on for more than `most` bytes.
    """
    data, elided = PickleStream(file, 0, file.size).as_far_as_it_goes(most)
    machine = Machine(data, _PickleConstructors(), elided)
    with suppress(CkptconvError):
        machine.run()
    if (called := _called(machine.things)) is not None:
        raise CorruptFileError(
            f"pickle.load would read it otherwise, and call {called[: second.MOST_SHOWN]!r}", hint="do not trust it"
        )


def _called(things: Sequence[Thing]) -> str | None:
    """The name of what is called, or counts as that, before a call that fails for certain; None where nothing is."""
    fails = False
    for thing in things:
        if thing.how not in RUNS or (fails and thing.how == "called"):
            continue
        if thing.name in _BY_CHANCE:
            fails = fails or not _is_hashed(thing)
        elif not thing.name.endswith(_OF_ARRAYS):
            return thing.name
    return None


def _is_hashed(thing: Thing) -> bool:
    """Whether it may be a key, of which the machine notes that it is hashed as it notes a call."""
    return len(thing.args) == 1 and isinstance(thing.args[0], (tuple, frozenset))
