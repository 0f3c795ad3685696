"""Walks a file's groups from the root: collects datasets and attributes by path, and resolves links within the file.

Paths are h5py's names: the names on the way, with ``/`` between them. Groups may be members of each other and of
themselves; each is walked once. Several links to one dataset are names of one tensor. The members of a group come in
the order of Keras' ``layer_names`` and ``weight_names`` if the group has these, else in creation order if that is
tracked, else sorted by name, with numbers by value.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ckptconv.core.dtypes import DType
from ckptconv.core.report import Finding, unreadable
from ckptconv.core.text import quoted
from ckptconv.errors import LimitError, UnsupportedError
from ckptconv.formats.hdf5.datasets.attributes import attributes_of
from ckptconv.formats.hdf5.datasets.dataset import Array, Dataset, Datasets, Unreadable, Value
from ckptconv.formats.hdf5.structures import headers
from ckptconv.formats.hdf5.structures.cursor import damaged
from ckptconv.formats.hdf5.structures.headers import Header, read_header, read_headers
from ckptconv.formats.hdf5.structures.heaps import GlobalHeaps
from ckptconv.formats.hdf5.structures.links import Link, is_group, links_of
from ckptconv.formats.hdf5.structures.superblock import in_several_files
from ckptconv.io.limits import MAX_DEPTH, MAX_HDF5_PATH, MAX_TENSORS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.formats.hdf5.structures.superblock import Hdf5File

_KERAS_DTYPE, _KERAS_BFLOAT16 = "dtype", "bfloat16"
"""The attribute by which Keras' ``saving_lib.H5Entry`` marks types that numpy does not have."""

MODEL = "model_weights/"
"""The group of the weights in a whole model of legacy Keras."""

LAYERS, WEIGHTS = "layer_names", "weight_names"
"""Keras' attributes with the order of a group's members."""

_READ_AHEAD_FROM, _BATCH = 500, 4096
"""For groups with at least so many members, headers are read in batches of this size."""

_MAX_HOPS = 32
"""The most soft links that may lead to one another; the HDF5 library follows 16."""


@dataclass(slots=True)
class Tree:
    """What a file holds, by path; "" is the root group. `values` has the datasets of text."""

    tensors: dict[str, LazyTensor] = field(default_factory=dict)
    values: dict[str, MetaNode] = field(default_factory=dict)
    attributes: dict[str, dict[str, MetaNode]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def walk(file: Hdf5File) -> Tree:
    """Walk the whole file. Reads headers, attributes and texts, but no other elements.

    Raises CorruptFileError, LimitError, UnsupportedError.
    """
    _check_extension(file)
    walker = _Walker(file)
    walker.walk_group(read_header(file, file.root), file.root, "")
    walker.follow_soft_links()
    return walker.tree()


def _check_extension(file: Hdf5File) -> None:
    """Raise UnsupportedError if the superblock's extension says that other files, or a cache image, belong to it."""
    header = read_header(file, file.extension) if file.extension is not None else Header(file)
    if header.has(headers.DRIVER_INFO):
        raise in_several_files()
    if header.has(headers.CACHE_IMAGE):
        raise UnsupportedError("it keeps an image of its writer's cache, which is not supported", hint="h5repack it")


class _Group(NamedTuple):
    """A group that was walked, with the path by which it was reached first."""

    path: str
    members: dict[str, Link]


class _SoftLink(NamedTuple):
    parent: int
    path: str
    target: str


class _Walker:
    """Objects are known by the address of their header."""

    def __init__(self, file: Hdf5File) -> None:
        self._file = file
        self._heaps = GlobalHeaps(file)
        self._reader = Datasets(self._heaps)
        self._found: list[tuple[str, Dataset]] = []
        self._datasets: dict[int, Dataset] = {}
        self._groups: dict[int, _Group] = {}
        self._soft_links: list[_SoftLink] = []
        self._converted: dict[tuple[str, str], list[str]] = {}
        self._tree = Tree()

    def walk_group(self, header: Header, address: int, path: str) -> None:
        """Collect a group's attributes and members."""
        if path.count("/") > MAX_DEPTH:
            raise LimitError(f"its groups are nested deeper than {MAX_DEPTH} levels")
        attributes = self._attributes(header, path)
        links = _ordered(links_of(header), _keras_order(attributes, LAYERS))
        self._groups[address] = _Group(path, {link.name: link for link in links})
        start = len(self._found)
        for first in range(0, len(links), _BATCH):
            batch = links[first : first + _BATCH]
            headers_read = self._read_ahead(batch) if len(links) >= _READ_AHEAD_FROM else {}
            for link in batch:
                self._add_member(link, address, f"{path}/{link.name}" if path else link.name, headers_read)
        weights = _keras_order(attributes, WEIGHTS)
        if weights:
            skipped, last = len(path) + 1 if path else 0, len(weights)
            self._found[start:] = sorted(self._found[start:], key=lambda entry: weights.get(entry[0][skipped:], last))

    def _read_ahead(self, links: Sequence[Link]) -> dict[int, Header]:
        """The headers of members that were not read before, by address."""
        addresses = {
            link.address: None
            for link in links
            if link.address is not None and link.address not in self._groups and link.address not in self._datasets
        }
        return read_headers(self._file, list(addresses))

    def _attributes(self, header: Header, path: str) -> dict[str, MetaNode]:
        attributes = attributes_of(header, self._heaps)
        if attributes:
            self._tree.attributes[path] = attributes
        return attributes

    def _add_member(self, link: Link, parent: int, path: str, headers_read: Mapping[int, Header]) -> None:
        if len(path) > MAX_HDF5_PATH:
            raise LimitError(f"a path in it has {len(path):,} characters; the limit is {MAX_HDF5_PATH:,}")
        if link.path is not None:
            self._soft_links.append(_SoftLink(parent, path, link.path))
        elif link.address is None:
            self._tree.findings.append(unreadable(path, link.description))
        else:
            self._add_object(link.address, path, headers_read)

    def _add_object(self, address: int, path: str, headers_read: Mapping[int, Header]) -> None:
        if self._add_again(address, path):
            return
        header = headers_read.get(address) or read_header(self._file, address)
        if header.has(headers.LAYOUT, headers.DATASPACE):
            self._read_dataset(header, address, path)
        elif is_group(header):
            self.walk_group(header, address, path)
        elif not header.has(headers.DATATYPE):  # a named datatype, which is no tensor, is ignored
            raise damaged(f"{path!r} is neither a group nor a dataset")

    def _add_again(self, address: int, path: str) -> bool:
        """Add another path of an object that was read before, if it was."""
        if address in self._groups:
            self._report_repeated_group(address, path)
        elif address in self._datasets:
            self._add_dataset(path, self._datasets[address])
        else:
            return False
        return True

    def _read_dataset(self, header: Header, address: int, path: str) -> None:
        dataset = self._reader.read(header, path, (id(self._file), address))
        attributes = self._attributes(header, path)
        if isinstance(dataset, Array) and dataset.was:
            dtype = dataset.tensor.info.dtype
            if dtype is DType.BF16 and attributes.get(_KERAS_DTYPE) == _KERAS_BFLOAT16:
                self._drop_attribute(path, _KERAS_DTYPE)  # the dtype says it now
            else:
                self._converted.setdefault((dataset.was, dtype.name), []).append(path)
        self._datasets[address] = dataset
        self._add_dataset(path, dataset)

    def _drop_attribute(self, path: str, key: str) -> None:
        attributes = self._tree.attributes[path]
        del attributes[key]
        if not attributes:
            del self._tree.attributes[path]

    def _add_dataset(self, path: str, dataset: Dataset) -> None:
        if len(self._found) >= MAX_TENSORS:
            raise LimitError(f"the file has more than {MAX_TENSORS:,} datasets")
        self._found.append((path, dataset))

    def _report_repeated_group(self, address: int, path: str) -> None:
        first = self._groups[address].path or "/"
        message = f"{path!r} is the group {first!r} again; what is in it is given once"
        self._tree.findings.append(Finding("group-link", "info", path, message))

    def follow_soft_links(self) -> None:
        """Add the datasets that soft links point to, under the links' paths. All groups have to be walked before."""
        for parent, path, target in self._soft_links:
            address = self._resolve(parent, target)
            if address is None:
                message = f"{path!r} is a link to {target!r}, where there is nothing in this file"
                self._tree.findings.append(Finding("broken-link", "warning", path, message))
            else:
                self._add_again(address, path)

    def _resolve(self, parent: int, target: str) -> int | None:
        """The address of what a soft link in the group `parent` points to; None if there is nothing."""
        at, hops = self._file.root if target.startswith("/") else parent, 0
        parts = deque(target.split("/"))
        while parts:
            part = parts.popleft()
            if part in ("", "."):
                continue
            link = self._groups[at].members.get(part) if at in self._groups else None
            if link is None or (link.path is None and link.address is None):
                return None
            if link.path is not None:
                hops += 1
                if hops > _MAX_HOPS:
                    return None
                parts.extendleft(reversed(link.path.split("/")))
                at = self._file.root if link.path.startswith("/") else at
            elif link.address is not None:
                at = link.address
        return at

    def tree(self) -> Tree:
        """The tree, once everything is walked."""
        for path, dataset in self._found:
            match dataset:
                case Array(tensor):
                    self._tree.tensors[path] = tensor
                case Value(value):
                    self._tree.values[path] = value
                case Unreadable(what):
                    self._tree.findings.append(unreadable(path, what))
        for (was, dtype), names in self._converted.items():
            message = f"{quoted(names, 1)}: elements that are {was} are read as {dtype}"
            self._tree.findings.append(Finding("read-as", "info", names[0], message, was, dtype))
        return self._tree


def _keras_order(attributes: Mapping[str, MetaNode], key: str) -> dict[str, int]:
    """The positions of names in a list that Keras stores in an attribute; a long one in several, which are numbered."""
    lists = [attributes.get(key)]
    if lists[0] is None:
        lists, number = [], 0
        while (more := attributes.get(f"{key}{number}")) is not None:
            lists.append(more)
            number += 1
    names = [name for part in lists if isinstance(part, list) for name in part if isinstance(name, str)]
    return {name: i for i, name in enumerate(names)}


def _ordered(links: list[Link], names: Mapping[str, int]) -> list[Link]:
    return sorted(links, key=lambda link: names.get(link.name, len(names))) if names else links
