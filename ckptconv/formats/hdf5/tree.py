"""The groups of a file, walked from its root: every dataset and attribute by its path, links resolved within the file.

A path is what h5py calls the object: names with ``/`` between them. Groups may be members of each other, and of
themselves: each is walked once. Links to one dataset are names of one tensor. The members of a group come in the order
of their creation where that is tracked, in that of Keras' ``layer_names`` and ``weight_names`` where the group has
these, else by name, with numbers in their order.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.core.report import Finding, unreadable
from ckptconv.core.text import quoted
from ckptconv.errors import LimitError, UnsupportedError
from ckptconv.formats.hdf5 import headers
from ckptconv.formats.hdf5.attributes import attributes_of
from ckptconv.formats.hdf5.cursor import damaged
from ckptconv.formats.hdf5.dataset import Array, Datasets, Unread, Words
from ckptconv.formats.hdf5.headers import Header, read_header, read_headers
from ckptconv.formats.hdf5.heaps import GlobalHeaps
from ckptconv.formats.hdf5.links import Link, is_group, links_of
from ckptconv.formats.hdf5.superblock import in_several_files
from ckptconv.io.limits import MAX_DEPTH, MAX_HDF5_PATH, MAX_TENSORS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.formats.hdf5.superblock import Hdf5File

_KERAS_DTYPE, _KERAS_BFLOAT16 = "dtype", "bfloat16"
"""How ``saving_lib.H5Entry`` marks what numpy has no type for."""

MODEL = "model_weights/"
"""Where the weights are in a whole model of legacy Keras'."""

LAYERS, WEIGHTS = "layer_names", "weight_names"
"""Attributes of Keras' that say in which order what is in a group comes."""

_MANY, _AT_ONCE = 500, 4096
"""Members of a group from which on their headers are read ahead of what is made of them, and how many at a time."""

_MOST_HOPS = 32
"""Soft links that may lead to one another; the HDF5 library follows 16."""


@dataclass(slots=True)
class Tree:
    """What a file holds, by path; "" is the root group. `values` are datasets of text."""

    tensors: dict[str, LazyTensor] = field(default_factory=dict)
    values: dict[str, MetaNode] = field(default_factory=dict)
    attributes: dict[str, dict[str, MetaNode]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def walk(file: Hdf5File) -> Tree:
    """Everything in the file. Reads headers, attributes and texts; no other element.

    Raises CorruptFileError, LimitError, UnsupportedError.
    """
    _check_extension(file)
    walker = _Walker(file)
    walker.group(read_header(file, file.root), file.root, "")
    walker.follow_soft_links()
    return walker.tree()


def _check_extension(file: Hdf5File) -> None:
    """Raise UnsupportedError where what the superblock says besides is that the file is not all here."""
    header = read_header(file, file.extension) if file.extension is not None else Header(file)
    if header.has(headers.DRIVER_INFO):
        raise in_several_files()
    if header.has(headers.CACHE_IMAGE):
        raise UnsupportedError("it keeps an image of its writer's cache, which is not supported", hint="h5repack it")


class _Walker:
    def __init__(self, file: Hdf5File) -> None:
        self._file = file
        self._heaps = GlobalHeaps(file)
        self._datasets = Datasets(self._heaps)
        self._found: list[tuple[str, Array | Words | Unread]] = []
        self._known: dict[int, tuple[str, Array | Words | Unread]] = {}
        self._members: dict[int, tuple[str, dict[str, Link]]] = {}
        self._soft: list[tuple[int, str, str]] = []
        self._as: dict[tuple[str, str], list[str]] = {}
        self._tree = Tree()

    def group(self, header: Header, address: int, path: str) -> None:
        """Walk a group: its attributes, its members."""
        if path.count("/") > MAX_DEPTH:
            raise LimitError(f"its groups are nested deeper than {MAX_DEPTH} levels")
        attributes = self._attributes(header, path)
        links = _ordered(links_of(header), _names(attributes, LAYERS))
        self._members[address] = path, {link.name: link for link in links}
        start = len(self._found)
        for first in range(0, len(links), _AT_ONCE):
            some = links[first : first + _AT_ONCE]
            ahead = self._ahead(some) if len(links) >= _MANY else {}
            for link in some:
                self._member(link, address, f"{path}/{link.name}" if path else link.name, ahead)
        weights = _names(attributes, WEIGHTS)
        if weights:
            skipped, last = len(path) + 1 if path else 0, len(weights)
            self._found[start:] = sorted(self._found[start:], key=lambda one: weights.get(one[0][skipped:], last))

    def _ahead(self, links: Sequence[Link]) -> dict[int, Header]:
        """The headers of members that were not read yet."""
        found = {
            one.address: None
            for one in links
            if one.address is not None and one.address not in self._members and one.address not in self._known
        }
        return read_headers(self._file, list(found))

    def _attributes(self, header: Header, path: str) -> dict[str, MetaNode]:
        attributes = attributes_of(header, self._heaps)
        if attributes:
            self._tree.attributes[path] = attributes
        return attributes

    def _member(self, link: Link, parent: int, path: str, ahead: Mapping[int, Header]) -> None:
        if len(path) > MAX_HDF5_PATH:
            raise LimitError(f"a path in it has {len(path):,} characters; the limit is {MAX_HDF5_PATH:,}")
        if link.path is not None:
            self._soft.append((parent, path, link.path))
        elif link.address is None:
            self._tree.findings.append(unreadable(path, link.other))
        else:
            self._object(link.address, path, ahead)

    def _object(self, address: int, path: str, ahead: Mapping[int, Header]) -> None:
        if address in self._members:
            self._tell_again(address, path)
        elif address in self._known:
            self._add(path, self._known[address][1])
        else:
            header = ahead.get(address) or read_header(self._file, address)
            if header.has(headers.LAYOUT, headers.DATASPACE):
                self._dataset(header, address, path)
            elif is_group(header):
                self.group(header, address, path)
            elif not header.has(headers.DATATYPE):  # a named datatype, which says nothing of tensors
                raise damaged(f"{path!r} is neither a group nor a dataset")

    def _dataset(self, header: Header, address: int, path: str) -> None:
        found = self._datasets.read(header, path, (id(self._file), address))
        attributes = self._attributes(header, path)
        if isinstance(found, Array) and found.was and not self._is_keras_bfloat16(path, found, attributes):
            self._as.setdefault((found.was, found.tensor.info.dtype.name), []).append(path)
        self._known[address] = path, found
        self._add(path, found)

    def _is_keras_bfloat16(self, path: str, found: Array, attributes: dict[str, MetaNode]) -> bool:
        """Whether Keras says what the elements are. That is then in their type, and no longer an attribute."""
        if found.tensor.info.dtype is not DType.BF16 or attributes.get(_KERAS_DTYPE) != _KERAS_BFLOAT16:
            return False
        del attributes[_KERAS_DTYPE]
        if not attributes:
            del self._tree.attributes[path]
        return True

    def _add(self, path: str, found: Array | Words | Unread) -> None:
        if len(self._found) >= MAX_TENSORS:
            raise LimitError(f"the file has more than {MAX_TENSORS:,} datasets")
        self._found.append((path, found))

    def _tell_again(self, address: int, path: str) -> None:
        first = self._members[address][0] or "/"
        message = f"{path!r} is the group {first!r} again; what is in it is given once"
        self._tree.findings.append(Finding("group-link", "info", path, message))

    def follow_soft_links(self) -> None:
        """Names that are paths of others: of a dataset, another name of it."""
        for parent, path, target in self._soft:
            address = self._resolve(parent, target)
            if address is None:
                message = f"{path!r} is a link to {target!r}, where there is nothing in this file"
                self._tree.findings.append(Finding("broken-link", "warning", path, message))
            elif address in self._members:
                self._tell_again(address, path)
            elif address in self._known:
                self._add(path, self._known[address][1])

    def _resolve(self, parent: int, target: str) -> int | None:
        at, hops = self._file.root if target.startswith("/") else parent, 0
        parts = deque(target.split("/"))
        while parts:
            part = parts.popleft()
            if part in ("", "."):
                continue
            link = self._members[at][1].get(part) if at in self._members else None
            if link is None or (link.path is None and link.address is None):
                return None
            if link.path is not None:
                hops += 1
                if hops > _MOST_HOPS:
                    return None
                parts.extendleft(reversed(link.path.split("/")))
                at = self._file.root if link.path.startswith("/") else at
            elif link.address is not None:
                at = link.address
        return at

    def tree(self) -> Tree:
        """What was found."""
        for path, found in self._found:
            match found:
                case Array(tensor):
                    self._tree.tensors[path] = tensor
                case Words(value):
                    self._tree.values[path] = value
                case Unread(what):
                    self._tree.findings.append(unreadable(path, what))
        for (was, dtype), names in self._as.items():
            message = f"{quoted(names, 1)}: elements that are {was} are read as {dtype}"
            self._tree.findings.append(Finding("read-as", "info", names[0], message, was, dtype))
        return self._tree


def _names(attributes: Mapping[str, MetaNode], key: str) -> dict[str, int]:
    """The places of names in a list that Keras keeps in an attribute, or in several where it is long."""
    found: list[str] = []
    lists = [attributes.get(key)]
    if lists[0] is None:
        lists, number = [], 0
        while (more := attributes.get(f"{key}{number}")) is not None:
            lists.append(more)
            number += 1
    for one in lists:
        if isinstance(one, list):
            found += [name for name in one if isinstance(name, str)]
    return {name: i for i, name in enumerate(found)}


def _ordered(links: list[Link], names: Mapping[str, int]) -> list[Link]:
    return sorted(links, key=lambda link: names.get(link.name, len(names))) if names else links
