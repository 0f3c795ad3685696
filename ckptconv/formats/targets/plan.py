"""What a file with our record will hold, decided from headers alone: which tensors, in which types and names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ckptconv.core import record as records
from ckptconv.core.names import free_name
from ckptconv.core.record import Encoding, Record
from ckptconv.core.report import Finding
from ckptconv.core.text import cut
from ckptconv.formats.targets.blobs import move_out
from ckptconv.io.digest import combine

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.tensor import LazyTensor, TensorInfo


MAX_SHOWN = 80
"""How much of a name a finding shows, in characters."""


@dataclass(slots=True)
class Plan:
    """What is stored.

    stored: the tensors, by the names in the file.
    infos:  the types and shapes that they are stored as, by the same names.
    record: what the file says beside them, so that they can be read back as they were.
    root:   the metadata tree that goes into the record.
    """

    stored: dict[str, LazyTensor]
    infos: dict[str, TensorInfo]
    record: Record
    root: MetaNode

    @property
    def needs_record(self) -> bool:
        """Whether the tensors cannot be read back as they were without the record; ties are left to the format."""
        record = self.record
        return bool(record.names or record.encodings or record.composites or record.notes.quantized)

    def names_in(self, files: Iterable[Iterable[int]]) -> list[list[str]]:
        """The stored names in each of several files, whose tensors are given by their positions in `infos`."""
        names = list(self.infos)
        return [[names[position] for position in file] for file in files]

    def own_names(self, files: Iterable[Iterable[str]]) -> list[list[str]]:
        """The checkpoint's names for the stored names in each of several files."""
        return [list(map(self.record.own_name, file)) for file in files]

    def digest(self, checkpoint: Checkpoint, hashes: Mapping[str, str]) -> str:
        """The content digest, from the content hashes of all stored tensors."""
        own = {self.record.own_name(stored): content for stored, content in hashes.items()}
        tied = checkpoint.tied_to
        return combine(checkpoint, {name: own[tied.get(name, name)] for name in checkpoint.all_tensors})


class Accepted(Protocol):
    """Gives the name if the format accepts it, else another one that is not in `taken`."""

    def __call__(self, name: str, taken: Container[str]) -> str: ...


def plan(
    checkpoint: Checkpoint, accepted: Accepted, stored_as: Callable[[TensorInfo], TensorInfo], *,
    keeps_metadata: bool = True,
) -> Plan:  # fmt: skip
    """Decide what to store.

    accepted:       gives the name that a tensor is stored under.
    stored_as:      gives the type and shape that a tensor is stored as.
    keeps_metadata: whether large metadata values become tensors, which the record refers to.
    """
    tensors = checkpoint.all_tensors
    tied = checkpoint.tied_to
    root, moved = move_out(checkpoint.root, tensors) if keeps_metadata else (checkpoint.root, {})
    record = Record(
        refs_are_model=records.refs_are_model(checkpoint),
        extras=list(checkpoint.extras),
        composites=checkpoint.composites,
        notes=checkpoint.notes,
    )
    stored: dict[str, LazyTensor] = {}
    infos: dict[str, TensorInfo] = {}
    taken = {*tensors, *moved}
    for position, (name, tensor) in enumerate({**tensors, **moved}.items()):
        if name in tied:
            record.ties.append((name, tied[name], position))
            continue
        spelled = accepted(name, taken)
        taken.add(spelled)
        info = stored_as(tensor.info)
        stored[spelled], infos[spelled] = tensor, info
        if spelled != name:
            record.names[spelled] = name
        if info != tensor.info:
            record.encodings[name] = Encoding(tensor.info.dtype.name, tensor.info.shape)
    return Plan(stored, infos, record, root)


def is_unnoted(checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint has no notes worth a record. What format it came from alone is not worth one."""
    return checkpoint.notes.to_dict().keys() <= {"source", "digest", "graph"}


def replacement_name(name: str, taken: Container[str], *, most: int) -> str:
    """A replacement for a name that a format refuses: as much of it as is valid, then ``#`` and a number.

    Has no NUL, and at most `most` bytes of UTF-8.
    """
    spelled = name.encode("utf-8", "backslashreplace").replace(b"\0", b"\\0")
    start = spelled[: most - 8].decode("utf-8", "ignore")
    return free_name(f"{start}#1", taken.__contains__, lambda number: f"{start}#{number}")


def is_text(name: str, most: int) -> bool:
    """Whether the name can be encoded in at most `most` bytes of UTF-8, and has no NUL."""
    try:
        return len(name.encode("utf-8")) <= most and "\0" not in name
    except UnicodeEncodeError:
        return False


def other_types(checkpoint: Checkpoint, stored_as: Callable[[TensorInfo], TensorInfo], format: str) -> list[Finding]:
    """A finding for each element type that the format lacks, and that is stored as another."""
    types: dict[tuple[str, str], list[str]] = {}
    for name, tensor in checkpoint.all_tensors.items():
        stored = stored_as(tensor.info)
        if stored.dtype != tensor.info.dtype:
            types.setdefault((tensor.info.dtype.name, stored.dtype.name), []).append(name)
    return [
        Finding(
            "stored-as", "info", names[0],
            f"{format} has no {dtype}: {names_are(names)} stored as {other}, with a note that other readers ignore",
            dtype, other,
        )
        for (dtype, other), names in types.items()
    ]  # fmt: skip


def names_are(names: list[str]) -> str:
    """The names as the subject of a sentence, with the verb: ``'a' and 3 more are``."""
    first = cut(names[0], MAX_SHOWN)
    return f"{first!r} is" if len(names) == 1 else f"{first!r} and {len(names) - 1:,} more are"
