"""Reader for joblib's files, in which scikit-learn models are often saved: a pickle with arrays between its opcodes,
which may be compressed as a whole.

`joblib_machine` has the layout of the arrays. Arrays with a tensor's element type become tensors, and stay in the file;
a compressed file is first inflated into a temporary one. joblib.load recognises zlib, bzip2, xz, LZMA and LZ4; gzip is
left to the `archive` format. Refused by name: files from before joblib 0.10, whose arrays are in other files beside
them, or are compressed one by one (``ZF``).

pickle.load stops at the padding before the first array. If there is none, as before joblib 1.2 and before an array of
objects, it takes what follows for further opcodes. The file is refused if these make calls and joblib.load makes none.
In an array of objects, memo indices then refer to other values, so that in honest files pickle.load ends up calling a
string, and fails; before that it may call a ``dtype`` of no module, or one of numpy's constructors with wrong
arguments.

Sources: joblib/numpy_pickle.py, joblib/numpy_pickle_utils.py (`_detect_compressor`), joblib/compressor.py.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.core.metadata import RUNS
from ckptconv.core.report import Finding
from ckptconv.errors import CkptconvError, CorruptFileError, MissingExtraError
from ckptconv.formats.torch.containers import bare, polyglot
from ckptconv.formats.torch.containers.legacy import LegacyConstructors
from ckptconv.formats.torch.containers.pickled import with_tensors
from ckptconv.formats.torch.others.joblib_machine import JoblibConstructors, JoblibMachine
from ckptconv.formats.torch.pickle import Global, Machine, PickleStream, UnbuiltObject
from ckptconv.io import inflated

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.formats.torch.pickle import Value
    from ckptconv.io.source import Source

_SEARCHED = 1 << 24
"""Bytes that are searched for the first wrapper if the file is not a whole pickle."""

_NAMES = tuple(name.encode() for name in bare.WRAPPERS)
_AS_LINES = tuple(f".numpy_pickle\n{name}\n".encode() for name in bare.WRAPPERS)
"""A wrapper's name in protocols 0 and 1."""


_NOT_CALLABLE = frozenset(
    f"a {kind.__name__}" for kind in (str, bytes, bytearray, int, float, bool, tuple, list, dict, type(None))
)
"""Values that cannot be called, as the machine describes them."""

_ARRAY_CALLS = (".dtype", "numpy.ndarray", ".numeric._frombuffer")
"""What pickled arrays of objects call; harmless with other arguments too."""


@dataclass(slots=True)
class _PickleConstructors(LegacyConstructors):
    """What pickle.load would build. joblib's wrappers are ordinary objects for it."""

    def inside(self, value: Value) -> Iterable[Value]:
        """As for other files, but nothing of a wrapper: it stores its array's class, and does not call it."""
        is_wrapper = isinstance(value, UnbuiltObject) and bare.is_wrapper(Global(*value.name.rpartition(".")[::2]))
        return () if is_wrapper else LegacyConstructors.inside(self, value)


def claims(source: Source) -> bool:
    """Whether a file is a pickle that names one of joblib's wrappers, or any compressed pickle."""
    if (method := inflated.method(source)) is not None:
        try:
            data = inflated.head(source, method, 1 << 16)
        except MissingExtraError:
            return True  # `read` says what to install
        return data[:2] in bare.WITH_PROTOCOL or any(name in data for name in _AS_LINES)
    start = bytes(source.read_at(0, min(2, source.size)))
    known = start in bare.WITH_PROTOCOL
    if not known and (not start or start[0] not in bare.FIRST_WITHOUT_PROTOCOL):
        return False
    data = _opcodes(source)
    return any(name in data for name in (_NAMES if known else _AS_LINES))


def _opcodes(source: Source) -> bytes:
    """The opcodes of a pickle; the first bytes of any other file."""
    try:
        return bare.opcodes(source)[1]
    except CkptconvError:
        return bytes(source.read_at(0, min(source.size, _SEARCHED)))


def read(source: Source) -> Checkpoint:
    """Open the file. Reads the opcodes without long runs of bytes; a compressed file is inflated.

    Raises CorruptFileError, LimitError, UnsupportedError (joblib before 0.10), UnsafeError, MissingExtraError (LZ4).
    """
    method = inflated.method(source)
    file = source if method is None else inflated.Inflated(source, method)
    polyglot.refuse_tar(file)
    source.parsed.pop(bare.OPCODES, None)
    stream, makers = PickleStream(file, 0, file.size), JoblibConstructors()
    machine = JoblibMachine(stream, file, makers)
    findings: tuple[Finding, ...] = ()
    if method is not None:
        message = f"compressed with {method}, it is inflated into a temporary file of {file.size:,} bytes"
        findings = (Finding("inflated", "info", "", message),)
    value = with_tensors(machine.run(), makers, {}, 0)
    if not makers.padded and not any(obj.how in RUNS for obj in machine.unbuilt):
        _refuse_as_pickle(file, machine.kept + polyglot.MAX_TRUNCATED)
    polyglot.refuse_zip(file, stream)
    return bare.checkpoint_of(source, stream, value, machine, makers, machine.kept, "joblib", findings)


def _refuse_as_pickle(file: Source, most: int) -> None:
    """Raise CorruptFileError if pickle.load would make calls that joblib.load does not, LimitError if it would go on
    for more than `most` bytes.
    """
    data, elided = PickleStream(file, 0, file.size).as_far_as_it_goes(most)
    machine = Machine(data, _PickleConstructors(), elided)
    with suppress(CkptconvError):
        machine.run()
    if (called := _called(machine.unbuilt)) is not None:
        raise CorruptFileError(
            f"pickle.load would read it otherwise, and call {called[: polyglot.MAX_SHOWN]!r}", hint="do not trust it"
        )


def _called(unbuilt: Sequence[UnbuiltObject]) -> str | None:
    """The name of the first call, or of what counts as one, before a call that is certain to fail; None if none is
    made.
    """
    fails = False
    for obj in unbuilt:
        if obj.how not in RUNS or (fails and obj.how == "called"):
            continue
        if obj.name in _NOT_CALLABLE:
            fails = fails or not _is_hashed(obj)
        elif not obj.name.endswith(_ARRAY_CALLS):
            return obj.name
    return None


def _is_hashed(obj: UnbuiltObject) -> bool:
    """Whether this may be a key: the machine records hashing one like a call."""
    return len(obj.args) == 1 and isinstance(obj.args[0], (tuple, frozenset))
