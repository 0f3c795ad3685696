"""The groups, datasets and attributes that a checkpoint is written as.

A tensor's name is the path of its dataset, so names with ``/`` make groups. Metadata becomes attributes if these can
give it back exactly: texts, numbers, booleans, and lists of one of these types. A dict whose key can be a path becomes
the attributes of the group or dataset there; other values become attributes of the root, as `read` expects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core import record as records
from ckptconv.core.metadata import StateDict, TensorRef
from ckptconv.formats.hdf5.tree import LAYERS, WEIGHTS
from ckptconv.formats.hdf5.writer.drafting import Dataset, Group
from ckptconv.formats.hdf5.writer.messages import AttributeValue, attribute_value, is_name
from ckptconv.formats.hdf5.writer.stored import groups_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.record import Record
    from ckptconv.core.tensor import TensorInfo


class InexactError(Exception):
    """Attributes could not give the metadata back exactly."""


class Places:
    """The groups and datasets of a file, by path."""

    def __init__(self) -> None:
        self.root = Group()
        self._objects: dict[str, Group | Dataset] = {"": self.root}

    def add(self, path: str, dataset: Dataset) -> None:
        """Put a dataset at a path; it may be at others as well."""
        self._parent(path).members[path.rpartition("/")[2]] = dataset
        self._objects[path] = dataset

    def _parent(self, path: str) -> Group:
        """The group that holds the object at `path`, which is made if need be."""
        group = self.root
        for outer in groups_of(path):
            child = group.members.setdefault(outer.rpartition("/")[2], Group())
            if not isinstance(child, Group):
                raise InexactError
            group = self._objects[outer] = child
        return group

    def add_group(self, path: str) -> None:
        """Put a group at a path, unless there is an object."""
        if path not in self._objects:
            self._objects[path] = self._parent(path).members.setdefault(path.rpartition("/")[2], Group())

    def __contains__(self, path: object) -> bool:
        return path in self._objects

    def at(self, path: str) -> Group | Dataset:
        """The object at a path."""
        return self._objects[path]

    def datasets(self, path: str = "") -> Iterator[str]:
        """The paths of all datasets below a group, in the order in which a reader finds them."""
        group = self._objects[path]
        assert isinstance(group, Group)
        for name, member in group.members.items():
            inner = f"{path}/{name}" if path else name
            if isinstance(member, Group):
                yield from self.datasets(inner)
            else:
                yield inner

    def are_ordered_by_keras(self) -> bool:
        """Whether Keras' attributes may change the order in which a reader finds datasets."""
        names = (name for item in self._objects.values() for name in item.attributes)
        return any(name.startswith((LAYERS, WEIGHTS)) for name in names)

    def add_attributes(self, path: str, attributes: Mapping[str, AttributeValue]) -> None:
        """Give attributes to the object at a path."""
        self._objects[path].attributes |= attributes


def place_datasets(infos: Mapping[str, TensorInfo], links: Mapping[str, str], paths: Mapping[str, str]) -> Places:
    """Put the datasets of tensors at their paths.

    infos: the tensors that are stored.
    links: further names, each with the name of its tensor.
    paths: the path for each name, in order.

    Raises InexactError if a dataset would be inside another.
    """
    datasets = {name: Dataset(info) for name, info in infos.items()}
    for kept in links.values():
        datasets[kept].links += 1
    places = Places()
    for name, path in paths.items():
        places.add(path, datasets[links.get(name, name)])
    return places


def _attributes(value: MetaNode) -> dict[str, AttributeValue] | None:
    """A dict as attributes; None if they can't give it back exactly."""
    if type(value) is not dict or not all(map(is_name, value)):
        return None
    found: dict[str, AttributeValue] = {}
    for key, item in value.items():
        encoded = attribute_value(item)
        if encoded is None:
            return None
        found[str(key)] = encoded
    return found


def add_exact_attributes(places: Places, root: MetaNode) -> None:
    """Add a metadata tree as attributes. Raises InexactError if they can't give all of it back exactly."""
    if root == StateDict():
        return
    if type(root) is not dict:
        raise InexactError
    for key, value in root.items():
        if isinstance(value, StateDict) or (isinstance(value, TensorRef) and value.name == key):
            continue
        inner = _attributes(value)
        own = attribute_value(value) if is_name(key) else None
        if inner is not None and _is_path(key):
            places.add_group(str(key))
            places.add_attributes(str(key), inner)
        elif own is not None:
            places.add_attributes("", {str(key): own})
        else:
            raise InexactError


def _is_path(key: object) -> bool:
    return is_name(key) and all(part not in ("", ".") for part in str(key).split("/"))


def readable_attributes(record: Record, places: Places) -> dict[str, dict[str, AttributeValue]]:
    """Attributes that show the recorded metadata to other tools, by the path of the object that gets them. Values that
    attributes can't give back exactly are shown as texts.
    """
    found: dict[str, dict[str, AttributeValue]] = {"": {}}
    for key, value in visible(record):
        inner = _attributes(value)
        if inner and key in places:
            found[key] = inner
        elif own := attribute_value(value) or attribute_value(as_text(value)):
            found[""][key] = own
    return found


def as_text(value: MetaNode) -> str:
    """The readable text for a value that attributes can't give back exactly."""
    return records.readable(value).replace("\0", "\\0")


def visible(record: Record) -> list[tuple[str, MetaNode]]:
    """The top-level metadata that other tools can read, as far as attributes can have its keys."""
    return [
        (key, value)
        for key, value in records.visible(record)
        if is_name(key) and not (isinstance(value, TensorRef) and value.name == key)
    ]
