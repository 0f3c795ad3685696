r"""Reader of the files that ``equinox.tree_serialise_leaves`` writes: numpy arrays one after another (`layout`).

    JSON, newline      if the program wrote hyperparameters first, as Equinox's documentation shows
    "\x93NUMPY" …      the first leaf of the tree: header and elements
    "\x93NUMPY" …      the next one, and so on to the end of the file

The names of leaves are only in the program that made the tree, not in the file: leaves are numbered, in the order of
the tree. Python numbers are leaves as well, and are read as arrays without dimensions. The entries of the JSON object
are metadata; any other text before the arrays is metadata as a whole. Repeated numpy.save into one open file gives the
same format.

Refused: leaves that are not numbers; anything between two leaves, or behind the last.

Source: equinox/_serialisation.py (`tree_serialise_leaves`, `default_serialise_filter_spec`).
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from functools import partial
from typing import TYPE_CHECKING

from ckptconv.core import strict_json
from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.metadata import MetaNode, StateDict
from ckptconv.core.names import free_key
from ckptconv.core.notes import Notes
from ckptconv.core.report import Finding
from ckptconv.core.tensor import ByteSpan
from ckptconv.errors import COPY_AGAIN, CkptconvError, CorruptFileError, LimitError, UnsupportedError
from ckptconv.formats.npz.single import first
from ckptconv.formats.npz.tensors import read_as_bf16, tensor_at
from ckptconv.formats.tensors.npy import FIRST, MAGIC, Npy, Text, read_header
from ckptconv.io.limits import MAX_DOCUMENT, MAX_TENSORS

if TYPE_CHECKING:
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.io.source import Source

_NEAR = 1 << 16
"""The array after a text is searched in this many bytes; after a JSON object, in `MAX_DOCUMENT` bytes."""

_NEXT = b"\n" + MAGIC
_STATE_DICT = "state_dict"
_TEXT = "header"
"""The metadata key for a text before the arrays that is not a JSON object."""


def claims(source: Source) -> bool:
    """Whether the file is at least two arrays, or one behind a text."""
    start = _start(source)
    if start is None:
        return False
    if start:
        return True
    try:
        _, end = _leaf(source, 0, 0)
    except CkptconvError:
        return False
    return first(source, end, len(MAGIC)) == MAGIC


def read(source: Source) -> Checkpoint:
    """Open the file. Reads the text and the arrays' headers, but no elements; one small read for each array.

    Raises CorruptFileError, LimitError, and UnsupportedError for elements that are not numbers.
    """
    offset = _start(source)
    if offset is None:
        raise UnsupportedError(
            "it does not start with a numpy array, or with a text before one", hint="leave --from out"
        )
    root = _metadata_root(bytes(source.read_at(0, offset)))
    tensors: dict[str, LazyTensor] = {}
    while offset < source.size:
        number = len(tensors)
        if number == MAX_TENSORS:
            raise LimitError(f"the file has more than {MAX_TENSORS:,} arrays")
        leaf, end = _leaf(source, offset, number)
        if not isinstance(leaf, Npy):
            raise UnsupportedError(
                f"array {number} holds text ({leaf.descr})",
                hint="save a tree of numbers: equinox.filter leaves out others",
            )
        span = ByteSpan(source, offset + len(leaf.raw), leaf.info.nbytes)
        tensors[str(number)] = tensor_at(leaf, span, (id(source), offset))
        offset = end
    unnamed = "the file has no names: the arrays are numbered in the order of the tree that they are the leaves of"
    findings = [Finding("numbered", "info", "", unnamed), *read_as_bf16(tensors)]
    return Checkpoint(
        tensors, root=root, format="equinox", notes=Notes(source="equinox"), findings=tuple(findings), file=source
    )


def _start(source: Source) -> int | None:
    """The offset of the first array, at the start or behind UTF-8 text; None if there is none."""
    head = first(source, 0, FIRST)
    if head.startswith(MAGIC):
        return 0
    if not _is_text(head.partition(_NEXT)[0]):
        return None
    before = first(source, 0, _NEAR)
    at = before.find(_NEXT)
    if at < 0 and before.startswith(b"{") and len(before) == _NEAR:
        before = first(source, 0, MAX_DOCUMENT)
        at = before.find(_NEXT)
    return at + 1 if at >= 0 and _is_text(before[:at], whole=True) else None


def _is_text(data: bytes, *, whole: bool = False) -> bool:
    """Whether the bytes are UTF-8, or unless `whole`, the start of UTF-8."""
    try:
        getincrementaldecoder("utf-8")().decode(data, whole)
    except UnicodeDecodeError:
        return False
    return True


def _metadata_root(text: bytes) -> MetaNode:
    """The metadata tree, with the model's tensors in it, from the text before the arrays. Raises LimitError."""
    model = StateDict(container="dict")
    if not text:
        return model
    try:
        value = strict_json.loads(text)
    except ValueError:
        value = text.decode("utf-8").removesuffix("\n")
    strict_json.check_depth(value, "the text before the arrays")
    entries = value if isinstance(value, dict) else {_TEXT: value}
    return {**entries, free_key(_STATE_DICT, entries): model}


def _leaf(source: Source, offset: int, number: int) -> tuple[Npy | Text, int]:
    """The header of the array at `offset`, and where the array ends.

    Raises CorruptFileError, LimitError, UnsupportedError.
    """
    leaf = read_header(partial(first, source, offset), f"array {number}")
    start = offset + len(leaf.raw)
    if source.size - start < leaf.nbytes:
        raise CorruptFileError(
            f"array {number} has {source.size - start:,} bytes, and its type and shape ask for {leaf.nbytes:,}",
            hint=COPY_AGAIN,
        )
    return leaf, start + leaf.nbytes
