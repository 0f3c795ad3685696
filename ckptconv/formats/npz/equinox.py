r"""What ``equinox.tree_serialise_leaves`` writes: arrays of numpy's behind each other, each as a ``.npy`` (`layout`).

    JSON, newline      where the program wrote its hyperparameters first, as Equinox' documentation shows
    "\x93NUMPY" …      the first leaf of the tree: its header, its elements
    "\x93NUMPY" …      the next, to the end of the file

What the leaves are called stands in the program that made the tree, and nowhere in the file: they are numbered, in the
order of the tree. Numbers of Python's are leaves as well, arrays without dimensions, as which they are read. The
entries of the JSON object are metadata; of any other text before the arrays the whole is. numpy.save into an open file,
again and again, gives the same.

Refused: leaves that are not numbers, and anything between two of them or behind the last.

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
from ckptconv.formats.npz.layout import FIRST, MAGIC, Npy, Text, read_header
from ckptconv.formats.npz.placed import placed, read_as_bf16
from ckptconv.formats.npz.single import first
from ckptconv.io.limits import MAX_DOCUMENT, MAX_TENSORS

if TYPE_CHECKING:
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.io.source import Source

_NEAR = 1 << 16
"""Bytes in which a text mostly ends; one that starts as a JSON object is looked for in `MAX_DOCUMENT`."""

_NEXT = b"\n" + MAGIC
_STATE_DICT = "state_dict"
_TEXT = "header"
"""The key of a text before the arrays that is not JSON object."""


def claims(source: Source) -> bool:
    """Whether it is arrays behind each other: two at least, or one behind a text."""
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
    """Open the file: the text and the arrays' headers, a small read for each; no element of them.

    Raises CorruptFileError, LimitError, and UnsupportedError for an array that is not of numbers, by its number.
    """
    offset = _start(source)
    if offset is None:
        raise UnsupportedError(
            "it does not start with a numpy array, or with a text before one", hint="leave --from out"
        )
    root = _around(bytes(source.read_at(0, offset)))
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
        tensors[str(number)] = placed(leaf, span, (id(source), offset))
        offset = end
    unnamed = "the file has no names: the arrays are numbered in the order of the tree that they are the leaves of"
    findings = [Finding("numbered", "info", "", unnamed), *read_as_bf16(tensors)]
    return Checkpoint(
        tensors, root=root, format="equinox", notes=Notes(source="equinox"), findings=tuple(findings), file=source
    )


def _start(source: Source) -> int | None:
    """Where the first array stands, which is behind UTF-8 text; None where there is none."""
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
    """Whether it is UTF-8, or, where it is not `whole`, the start of that."""
    try:
        getincrementaldecoder("utf-8")().decode(data, whole)
    except UnicodeDecodeError:
        return False
    return True


def _around(text: bytes) -> MetaNode:
    """The tree with the model's tensors in it, from the text before them. Raises LimitError."""
    model = StateDict(container="dict")
    if not text:
        return model
    try:
        said = strict_json.loads(text)
    except ValueError:
        said = text.decode("utf-8").removesuffix("\n")
    strict_json.check_depth(said, "the text before the arrays")
    said = said if isinstance(said, dict) else {_TEXT: said}
    return {**said, free_key(_STATE_DICT, said): model}


def _leaf(source: Source, offset: int, number: int) -> tuple[Npy | Text, int]:
    """The header of an array, and where it ends. Raises CorruptFileError, LimitError, UnsupportedError."""
    leaf = read_header(partial(first, source, offset), f"array {number}")
    start = offset + len(leaf.raw)
    if source.size - start < leaf.nbytes:
        raise CorruptFileError(
            f"array {number} has {source.size - start:,} bytes, and its type and shape ask for {leaf.nbytes:,}",
            hint=COPY_AGAIN,
        )
    return leaf, start + leaf.nbytes
