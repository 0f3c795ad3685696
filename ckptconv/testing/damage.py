"""Truncates a file and flips its bits, and judges how a reader handles the result.

A reader may refuse the file with a CkptconvError, or read exactly what the format's reference reader reads. Anything
else is a failure: another exception, missing data, more than `SECONDS` of CPU time or `BYTES` of memory.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import process_time
from typing import TYPE_CHECKING

from ckptconv.core.metadata import MetaNode, Opaque, walk
from ckptconv.core.spelling import same
from ckptconv.errors import CkptconvError
from ckptconv.formats.base import WriteOptions
from ckptconv.io.source import Source
from ckptconv.io.target import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.formats.base import Format

SECONDS = 2.0
BYTES = 256 << 20

TensorReading = tuple[str, tuple[int, ...], bytes]
"""A tensor that was read: the name of its dtype, its shape, its bytes."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader read from a file. `metadata` is not compared if it is None."""

    tensors: Mapping[str, TensorReading]
    metadata: MetaNode = None


@dataclass(slots=True)
class Verdicts:
    """How many damaged files were refused and how many were read; `failures` has a line for each other outcome."""

    refused: int = 0
    read: int = 0
    failures: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The number of failures and the first of them, for an assertion's message."""
        return f"{len(self.failures)} of {self.refused + self.read} damaged files:\n" + "\n".join(self.failures[:12])


class Judge:
    """Reads damaged versions of one file, and collects the verdicts."""

    def __init__(self, format: Format, path: Path, reference: Callable[[Path], Reading | None]) -> None:
        """Prepare to damage a copy of `path`, which is an intact file of the format; the copy is made beside it."""
        self.verdicts = Verdicts()
        self._format = format
        self._reference = reference
        self._whole = path.read_bytes()
        self._damaged = path.with_name("damaged" + path.suffix)
        self._outcome(path)  # so that no later call pays for imports

    def header_bytes(self, path: Path) -> list[int]:
        """The offsets of all bytes in the file that do not belong to a tensor."""
        with Source(path) as source, self._format.read(source) as checkpoint:
            spans = [span for tensor in checkpoint.all_tensors.values() for span in tensor.depends]
            data = {at for span in spans if span.file is source for at in range(span.offset, span.offset + span.length)}
        return [at for at in range(len(self._whole)) if at not in data]

    def truncations(self) -> None:
        """Judge the file, truncated to every length."""
        self._damaged.write_bytes(self._whole)
        for size in reversed(range(len(self._whole))):
            os.truncate(self._damaged, size)
            self._judge(f"cut to {size} bytes")

    def bit_flips(self, offsets: list[int]) -> None:
        """Judge the file with each bit of each of these bytes flipped."""
        self._damaged.write_bytes(self._whole)
        with self._damaged.open("r+b", buffering=0) as file:
            for at in offsets:
                for bit in range(8):
                    file.seek(at)
                    file.write(bytes([self._whole[at] ^ 1 << bit]))
                    self._judge(f"bit {bit} of byte {at} ({self._whole[at : at + 1]!r}) flipped")
                file.seek(at)
                file.write(self._whole[at : at + 1])

    def _judge(self, damage: str) -> None:
        start = process_time()
        try:
            with limited_memory(BYTES):
                ours = self._outcome(self._damaged)
        except Exception as error:  # this is what the suite looks for
            self.verdicts.failures.append(f"{damage}: {type(error).__name__}: {error}")
            return
        if process_time() - start > SECONDS:
            self.verdicts.failures.append(f"{damage}: it took {process_time() - start:.1f} s")
        if ours is None:
            self.verdicts.refused += 1
            return
        self.verdicts.read += 1
        if what := disagreement(ours, self._damaged, self._reference):
            self.verdicts.failures.append(f"{damage}: {what}")

    def _outcome(self, path: Path) -> Reading | None:
        """What our reader reads; None if it refuses the file, or if our writer, if any, refuses to write it again."""
        try:
            with Source(path) as source, self._format.read(source) as checkpoint:
                if any(isinstance(node, Opaque) for _, node in walk(checkpoint.root)):
                    return None
                if self._format.writer:
                    with Target(path.with_name("again" + path.suffix)) as target:
                        self._format.write(checkpoint, target, WriteOptions())
                return reading(checkpoint)
        except CkptconvError:
            return None


def reading(checkpoint: Checkpoint) -> Reading:
    """Read everything in the checkpoint. Raises AssertionError if a tensor has fewer bytes than its header says."""
    tensors = {}
    for name, tensor in checkpoint.all_tensors.items():
        image = bytes(tensor.read())
        assert len(image) == tensor.info.nbytes, f"{name!r} gives {len(image)} of {tensor.info.nbytes} bytes"
        tensors[name] = tensor.info.dtype.name, tensor.info.shape, image
    return Reading(tensors, checkpoint.metadata)


def disagreement(ours: Reading, path: Path, reference: Callable[[Path], Reading | None]) -> str | None:
    """How the reference reader's result differs from ours; None if it does not, or if there is no reference."""
    try:
        theirs = reference(path)
    except Exception as error:
        return f"it is read, and the reference refuses it: {type(error).__name__}: {str(error)[:200]}"
    if theirs is None:
        return None
    if ours.tensors.keys() != theirs.tensors.keys():
        return f"we read the names {sorted(ours.tensors)}, the reference {sorted(theirs.tensors)}"
    for name, tensor in ours.tensors.items():
        if tensor != theirs.tensors[name]:
            return f"we read {name!r} as {tensor}, the reference as {theirs.tensors[name]}"
    if theirs.metadata is not None and not same(ours.metadata, theirs.metadata):
        return f"we read the metadata {ours.metadata!r}, the reference {theirs.metadata!r}"
    return None


@contextmanager
def limited_memory(more: int) -> Iterator[None]:
    """Within the block, the process may allocate `more` bytes; beyond that, it gets a MemoryError.

    Has no effect except on Linux with a /proc.
    """
    if sys.platform != "linux" or not os.path.exists("/proc/self/statm"):
        yield
        return
    import resource

    with open("/proc/self/statm", "rb") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
