"""Reader for torch.distributed.checkpoint's folders: the listing, the values, and tensors joined from chunks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.notes import GlobalUse, Notes
from ckptconv.core.record import parse as parse_record
from ckptconv.core.report import Finding
from ckptconv.core.tensor import LazyTensor, TensorInfo, depends_of, in_file
from ckptconv.errors import (
    COPY_ALL_AGAIN,
    CkptconvError,
    CorruptFileError,
    FileAccessError,
    LimitError,
    UnsupportedError,
    located,
)
from ckptconv.formats.torch.dcp import BESIDE, MAIN
from ckptconv.formats.torch.dcp.blob import Blob, open_blob
from ckptconv.formats.torch.dcp.listing import Chunk, Entry, Listing, Place, parse
from ckptconv.formats.torch.dcp.tree import nested, restored
from ckptconv.formats.torch.dtypes import PACKED
from ckptconv.formats.torch.pickle import Budget, Machine, Value
from ckptconv.formats.torch.tree.build import build_tree
from ckptconv.formats.torch.tree.names import with_names
from ckptconv.formats.torch.tree.placing import Places, placed_stub
from ckptconv.io.limits import MAX_DIM, MAX_PICKLE_BYTES, MAX_TENSORS
from ckptconv.io.mosaic import Mosaic, Tile, check_tiling
from ckptconv.io.window import Window

if TYPE_CHECKING:
    from ckptconv.core.dtypes import DType
    from ckptconv.io.folder import Folder


def claims(folder: Folder) -> bool:
    """Whether the folder has a ``.metadata`` that starts like a pickle."""
    if MAIN not in folder.names:
        return False
    try:
        source = folder.open(MAIN)
        return source.size > 1 and bytes(source.read_at(0, 1)) == b"\x80"
    except CkptconvError:
        return False


def read(folder: Folder) -> Checkpoint:
    """Open the folder. Reads the listing, and the values that are not tensors, but no byte of a tensor or its archive.

    Raises CorruptFileError, LimitError, UnsupportedError, UnsafeError, FileAccessError (a file is missing), with the
    file or the entry in them.
    """
    listing, size = read_listing(folder)
    checkpoint = Entries(folder, size).checkpoint(listing)
    if BESIDE in folder.names:
        message = f"{BESIDE!r} in it, where Lightning keeps the epoch and hyper_parameters, is a checkpoint of its own"
        found = Finding("beside", "info", BESIDE, message, hint=f"name {folder.path / BESIDE} for it")
        checkpoint.findings = (*checkpoint.findings, found)
    return checkpoint


def read_listing(folder: Folder) -> tuple[Listing, int]:
    """The parsed ``.metadata``, and its size in bytes. Raises what `read` raises."""
    if MAIN not in folder.names:
        raise UnsupportedError(
            "there is no .metadata in this folder, so that its .distcp files cannot be told apart", hint=COPY_ALL_AGAIN
        )
    source = folder.open(MAIN)
    with located(source.path):
        return parse(source.read_all(MAX_PICKLE_BYTES)), source.size


@dataclass(slots=True)
class Entries:
    """Reads a listing's entries. `size` is how many bytes of pickles have been read."""

    folder: Folder
    size: int
    machines: list[Machine] = field(default_factory=list)
    places: Places = field(default_factory=Places)
    infos: dict[tuple[DType | None, tuple[int, ...]], TensorInfo] = field(default_factory=dict)

    def checkpoint(self, listing: Listing) -> Checkpoint:
        """The checkpoint, with its nested dicts and lists rebuilt. Raises what `read` raises."""
        entries = listing.entries
        values = {entry.name: self.value(entry) for entry in entries}
        record = parse_record(listing.record) if listing.record is not None else None
        budget = Budget(self.size)
        root = restored(record.root, entries, values) if record else nested(entries, values, budget)
        tree = build_tree(root, budget)
        if len(tree.model) + len(tree.extras) > MAX_TENSORS:
            raise LimitError(f"it has more than {MAX_TENSORS:,} tensors")
        uses = tuple(GlobalUse(str(name), called) for name, called in listing.globals.items())
        notes = replace(record.notes if record else Notes(), globals=uses)
        for machine in self.machines:
            notes = with_names(notes, machine, tree, budget)
        return Checkpoint(
            {name: self.places.place(name, stub) for name, stub in tree.model.items()},
            extras={name: self.places.place(name, stub) for name, stub in tree.extras.items()},
            root=tree.root,
            format="torch-dcp",
            notes=replace(notes, source=notes.source or "torch-dcp", digest=None),
            file=self.folder,
        )

    def value(self, entry: Entry) -> Value:
        """The stub of a tensor, or the value in an entry's blob."""
        if entry.dtype is not None:
            return placed_stub(self._tensor(entry), entry.shape)
        place = entry.chunks[0].place
        assert place is not None
        saved = open_blob(self._window(entry.name, place), entry.name)
        self.size += place.length
        self.machines.append(saved.machine)
        self.places.add(saved.storages, saved.placer.place)
        return saved.value

    def _window(self, name: str, place: Place) -> Window:
        try:
            return Window.of(self.folder.open(place.file), place.offset, place.length)
        except FileAccessError as error:
            raise FileAccessError(
                f"a part of {name!r} is in {place.file!r}, which does not open: {error.message}",
                path=self.folder.path / place.file, hint=COPY_ALL_AGAIN,
            ) from error  # fmt: skip
        except CorruptFileError as error:
            error.message = f"a part of {name!r} is in {place.file!r}: {error.message}"
            error.args = (error.message,)
            raise

    def _tensor(self, entry: Entry) -> LazyTensor:
        try:
            check_tiling(entry.shape, [(chunk.begin, chunk.size) for chunk in entry.chunks])
        except CkptconvError as error:
            error.message = f"tensor {entry.name!r}: {error.message}"
            error.args = (error.message,)
            raise
        info = self._info(entry, entry.shape)
        chunks = [(chunk, chunk.place) for chunk in entry.chunks if chunk.place is not None]
        if 0 in entry.shape:
            return LazyTensor(info, lambda start, stop: memoryview(b""))
        places = tuple((place.file, place.offset, chunk.begin) for chunk, place in chunks)
        alias = (id(self.folder), places, entry.shape, entry.dtype)
        tiles = [self._tile(entry, chunk, place) for chunk, place in chunks]
        if len(tiles) == 1:
            return replace(tiles[0].tensor, alias=alias)
        unit = info.nbytes // prod(entry.shape)
        depends = depends_of(tile.tensor for tile in tiles)
        return LazyTensor(info, Mosaic(entry.shape, unit, tiles), None, alias, depends)

    def _info(self, entry: Entry, shape: tuple[int, ...]) -> TensorInfo:
        """The header of an entry's tensor, or of a chunk; cached, because layers repeat their shapes."""
        key = entry.dtype, shape
        return self.infos.get(key) or self.infos.setdefault(key, _info(entry, shape))

    def _tile(self, entry: Entry, chunk: Chunk, place: Place) -> Tile:
        held = self._info(entry, chunk.size if chunk.stored is None else chunk.stored)
        span = Blob(self._window(entry.name, place), entry.name, held).span()
        return Tile(chunk.begin, chunk.size, in_file(self._info(entry, chunk.size), span))


def _info(entry: Entry, shape: tuple[int, ...]) -> TensorInfo:
    """A header with a shape in logical elements. Raises CorruptFileError, UnsupportedError."""
    assert entry.dtype is not None
    packed = PACKED.get(entry.dtype, 1)
    if packed > 1 and not shape:
        raise UnsupportedError(
            f"{entry.name!r} is a 0-d tensor of packed {entry.dtype}, which holds no single element",
            hint="reshape it to [1]",
        )
    logical = (*shape[:-1], shape[-1] * packed) if packed > 1 else shape
    info = TensorInfo.of(entry.dtype, logical)
    if info.nbytes > MAX_DIM:
        raise CorruptFileError(f"tensor {entry.name!r} takes more bytes than a file can have", hint=COPY_ALL_AGAIN)
    return info
