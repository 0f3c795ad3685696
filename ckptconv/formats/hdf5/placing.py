"""Which datasets, groups and attributes a checkpoint becomes.

A tensor's name is its dataset's path, so that names with ``/`` make groups. Of the metadata, an attribute says what an
attribute gives back as it was: texts, numbers, booleans, and lists of one kind of these. Where a key is the path of a
group or a dataset, its dict are the attributes of that, else they are the root's, which is how `read` gives them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core import record as records
from ckptconv.core.metadata import StateDict, TensorRef
from ckptconv.formats.hdf5.drafting import Dataset, Group
from ckptconv.formats.hdf5.messages import Said, is_name, said
from ckptconv.formats.hdf5.stored import groups_of
from ckptconv.formats.hdf5.tree import LAYERS, WEIGHTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.record import Record
    from ckptconv.core.tensor import TensorInfo


class UnsayableError(Exception):
    """Attributes would not give it back."""


class Places:
    """The groups and datasets of a file, by path."""

    def __init__(self) -> None:
        self.root = Group()
        self._objects: dict[str, Group | Dataset] = {"": self.root}

    def add(self, path: str, dataset: Dataset) -> None:
        """Put a dataset there, maybe one that is elsewhere already."""
        self._inside(path).members[path.rpartition("/")[2]] = dataset
        self._objects[path] = dataset

    def _inside(self, path: str) -> Group:
        group = self.root
        for outer in groups_of(path):
            child = group.members.setdefault(outer.rpartition("/")[2], Group())
            if not isinstance(child, Group):
                raise UnsayableError
            group = self._objects[outer] = child
        return group

    def add_group(self, path: str) -> None:
        """Put a group there, if there is nothing yet."""
        if path not in self._objects:
            self._objects[path] = self._inside(path).members.setdefault(path.rpartition("/")[2], Group())

    def __contains__(self, path: object) -> bool:
        return path in self._objects

    def at(self, path: str) -> Group | Dataset:
        """What is there."""
        return self._objects[path]

    def datasets(self, path: str = "") -> Iterator[str]:
        """The paths of all datasets, as a reader comes to them."""
        group = self._objects[path]
        assert isinstance(group, Group)
        for name, member in group.members.items():
            inner = f"{path}/{name}" if path else name
            if isinstance(member, Group):
                yield from self.datasets(inner)
            else:
                yield inner

    def are_ordered_by_keras(self) -> bool:
        """Whether attributes say that a reader comes to them in another order."""
        said = (name for one in self._objects.values() for name in one.attributes)
        return any(name.startswith((LAYERS, WEIGHTS)) for name in said)

    def say(self, path: str, attributes: Mapping[str, Said]) -> None:
        """Give the object there attributes."""
        self._objects[path].attributes |= attributes


def placed(infos: Mapping[str, TensorInfo], links: Mapping[str, str], paths: Mapping[str, str]) -> Places:
    """The datasets of tensors at their `paths`, in that order. `links` are further names, each with that of its tensor.

    Raises UnsayableError where one would be in another.
    """
    datasets = {name: Dataset(info) for name, info in infos.items()}
    for kept in links.values():
        datasets[kept].links += 1
    places = Places()
    for name, path in paths.items():
        places.add(path, datasets[links.get(name, name)])
    return places


def attributes(value: MetaNode) -> dict[str, Said] | None:
    """A dict as attributes; None where it is none that they give back."""
    if type(value) is not dict or not all(map(is_name, value)):
        return None
    found = {str(key): said(item) for key, item in value.items()}
    return {key: item for key, item in found.items() if item} if all(found.values()) else None


def say_all(places: Places, root: MetaNode) -> None:
    """Say a metadata tree as attributes. Raises UnsayableError where they do not give all of it back."""
    if root == StateDict():
        return
    if type(root) is not dict:
        raise UnsayableError
    for key, value in root.items():
        if isinstance(value, StateDict) or (isinstance(value, TensorRef) and value.name == key):
            continue
        inner = attributes(value)
        own = said(value) if is_name(key) else None
        if inner is not None and _is_path(key):
            places.add_group(str(key))
            places.say(str(key), inner)
        elif own is not None:
            places.say("", {str(key): own})
        else:
            raise UnsayableError


def _is_path(key: object) -> bool:
    return is_name(key) and all(part not in ("", ".") for part in str(key).split("/"))


def shown(record: Record, places: Places) -> dict[str, dict[str, Said]]:
    """What of the record's tree others can read, as attributes by the path of what has them; the root's are texts where
    nothing else gives the value back.
    """
    found: dict[str, dict[str, Said]] = {"": {}}
    for key, value in visible(record):
        inner = attributes(value)
        if inner and key in places:
            found[key] = inner
        elif own := said(value) or said(as_text(value)):
            found[""][key] = own
    return found


def as_text(value: MetaNode) -> str:
    """How a value reads in an attribute that cannot give it back."""
    return records.readable(value).replace("\0", "\\0")


def visible(record: Record) -> list[tuple[str, MetaNode]]:
    """The top-level metadata that others can read, by keys that attributes can have."""
    return [
        (key, value)
        for key, value in records.visible(record)
        if is_name(key) and not (isinstance(value, TensorRef) and value.name == key)
    ]
