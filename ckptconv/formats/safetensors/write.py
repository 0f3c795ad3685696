"""Writer for a single safetensors file.

Everything is planned from headers: which names are stored, as which types, at which offsets. Then the tensors are
streamed to their places, the header with the content digest is written last, and the safetensors package has to accept
the result.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptconv.core import record as records
from ckptconv.core.names import free_name
from ckptconv.core.spelling import is_utf8
from ckptconv.errors import RejectedOutputError
from ckptconv.formats.base import WriteResult
from ckptconv.formats.safetensors.encodings import stored_as
from ckptconv.formats.safetensors.layout import METADATA, arrange, spell_header
from ckptconv.formats.targets.header_first import write_behind
from ckptconv.formats.targets.plan import plan
from ckptconv.io.digest import PLACEHOLDER

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.progress import Progress
    from ckptconv.formats.base import WriteOptions
    from ckptconv.formats.targets.header_first import Hashes
    from ckptconv.formats.targets.plan import Plan
    from ckptconv.io.target import Target


@dataclass(slots=True)
class Planned:
    """The file to be written: its tensors, and whether its metadata has our record."""

    plan: Plan
    keeps_record: bool

    def strings(self, digest: str | None) -> dict[str, str]:
        """The file's ``__metadata__``."""
        if self.keeps_record:
            return records.strings_of(replace(self.plan.record, root=self.plan.root, digest=digest), self.plan.infos)
        return {"format": records.FORMAT, **records.tie_strings(self.plan.record)}


def planned(checkpoint: Checkpoint, *, plain: bool) -> Planned:
    """Decide names, types and metadata. `plain` leaves the record out unless the tensors need it."""
    result = plan(checkpoint, _stored_name, stored_as)
    ties_need_no_record = all(records.reads_as_tie(dropped, kept) for dropped, kept, _ in result.record.ties)
    return Planned(result, not plain or result.needs_record or not ties_need_no_record)


def _stored_name(name: str, taken: Container[str]) -> str:
    """The name under which the format can store a tensor: valid UTF-8, and not the header's own key."""
    if is_utf8(name) and name != METADATA:
        return name
    spelled = name.encode("utf-8", "backslashreplace").decode("utf-8") + "#"
    return free_name(spelled, taken.__contains__, lambda number: f"{spelled}{number}")


def write(checkpoint: Checkpoint, target: Target, options: WriteOptions) -> WriteResult:
    """Write the checkpoint. Raises LimitError (header past 100 MB), DamagedTensorError, RejectedOutputError."""
    result = planned(checkpoint, plain=options.plain)
    digest = None

    def strings(hashes: Hashes | None) -> dict[str, str]:
        nonlocal digest
        digest = result.plan.digest(checkpoint, hashes) if result.keeps_record and hashes is not None else None
        return result.strings(digest or PLACEHOLDER)

    size, _ = write_file(target, result, result.plan.stored, strings, options.progress)
    return WriteResult(size, digest)


def write_file(
    target: Target, made: Planned, names: Iterable[str], strings: Callable[[Hashes | None], dict[str, str]],
    progress: Progress | None,
) -> tuple[int, Hashes]:  # fmt: skip
    """Write the stored tensors with these names as one file. Returns its size, and their content hashes.

    strings: gives the file's ``__metadata__``. It is called with None before any byte is written, and with the hashes
             when all tensors are. Both results must have the same length.
    """
    stored = {name: made.plan.stored[name] for name in names}
    infos = {name: made.plan.infos[name] for name in stored}
    offsets, length = arrange(infos), sum(info.nbytes for info in infos.values())

    def header(hashes: Hashes | None) -> bytes:
        return spell_header(infos, offsets, strings(hashes))

    written = write_behind(target, header, stored, offsets, length, content=made.keeps_record, progress=progress)
    _check_with_reference(target)
    return written


def _check_with_reference(target: Target) -> None:
    """Open the file with the safetensors package before it gets its name. Raises RejectedOutputError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(target.readable_path, framework="np") as file:
            file.keys()
    except SafetensorError as error:
        raise RejectedOutputError(f"the safetensors package refuses what was written: {error}") from error
