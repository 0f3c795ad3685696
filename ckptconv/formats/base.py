"""What a format is: a `Format` record of plain data, and the protocols of the functions that it names.

Nothing here imports a format. A `Format` names its functions as ``"package.module:function"`` strings, which are
imported on first use, so that listing all formats costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Literal, Protocol, cast

from ckptconv.errors import CkptconvError, MissingExtraError, PluginError, UsageError
from ckptconv.formats.options import OptionRow, option_rows, parse_options
from ckptconv.io.folder import Folder

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.dtypes import DType
    from ckptconv.core.progress import Progress
    from ckptconv.core.report import Finding
    from ckptconv.io.source import Source
    from ckptconv.io.target import Target

MetadataSupport = Literal["typed", "record", "none"]
"""How a format keeps metadata: natively, with types; in our record (`formats/README.md`); not at all."""


@dataclass(frozen=True, slots=True)
class Holds:
    """What a format can store and give back; the preflight compares a checkpoint with this.

    dtypes:     element types, stored natively or in a recorded encoding.
    blocks:     whether block types (quantized blocks) among them are native.
    metadata:   see MetadataSupport.
    extras:     tensors outside the state_dict.
    ties:       that two names share one tensor.
    opaque:     objects of unknown classes, as data.
    composites: that several tensors form one quantized or sparse tensor.
    single:     only one tensor, without its name.
    """

    dtypes: Collection[DType] = field(default=(), repr=False)
    blocks: bool = False
    metadata: MetadataSupport = "none"
    extras: bool = False
    ties: bool = False
    opaque: bool = False
    composites: bool = False
    single: bool = False


class Claims(Protocol):
    """Whether a file or folder is in this format. Reads little, and never raises for a file in another format.

    Called only with what the format `takes` (a file, a folder, or either), as is the reader.
    """

    def __call__(self, source: Source | Folder) -> bool: ...


class Reader(Protocol):
    """Open a checkpoint. Reads headers only, no tensor bytes. Raises CkptconvError on anything malformed."""

    def __call__(self, source: Source | Folder) -> Checkpoint: ...


class Writer(Protocol):
    """Write a checkpoint into a target that is already open; the caller commits it.

    By then the user has agreed to lose what the format cannot hold. Before it returns, the writer has the format's
    reference reader accept the file, unless that needs a framework such as torch (the tests do that). Equal
    checkpoints give equal bytes.
    """

    def __call__(self, checkpoint: Checkpoint, target: Target, options: WriteOptions) -> WriteResult: ...


class Notices(Protocol):
    """Findings of severity "info" about the file that would be written."""

    def __call__(self, checkpoint: Checkpoint) -> list[Finding]: ...


class Needs(Protocol):
    """What a checkpoint lacks that the format requires, in words; "" if nothing. Called before the loss check."""

    def __call__(self, checkpoint: Checkpoint) -> str: ...


class Layout(Protocol):
    """Which tensors go into which file, each of at most `limit` bytes unless a single tensor is larger."""

    def __call__(self, checkpoint: Checkpoint, limit: int, *, plain: bool) -> list[list[str]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOptions:
    """Options that every writer gets.

    plain:      leave out our record, if the format has one (except what the tensors themselves need).
    progress:   called with bytes done and total bytes.
    own:        the format's own options, an instance of the class that `Format.options` names; None if it has none.
    graph:      the graph that the tensors are the weights of, if the format stores one too (`Format.graph`).
    write_as:   writes a checkpoint in another format into another target, for files that lie side by side.
    shard_size: most bytes of tensors in a file, if the format can have several; None: the format's default.
    """

    plain: bool = False
    progress: Progress | None = None
    own: object = None
    graph: object = None
    write_as: Callable[[str, Checkpoint, Target], WriteResult] | None = None
    shard_size: int | None = None


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What a writer did: bytes written, the digest if it recorded one, and findings to show the user."""

    nbytes: int
    digest: str | None = None
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Format:
    """A format, described by data.

    name:     what ``--from`` and ``--to`` accept.
    summary:  one line for the table of formats.
    suffixes: choose the format of a new file; they never decide how an existing file is read.
    magic:    (offset, bytes) pairs, one of which a file must match before `claims` is called; empty: always called.
    claims:   ``"module:function"`` of a `Claims`.
    reader:   ``"module:function"`` of a `Reader`.
    writer:   ``"module:function"`` of a `Writer`; "" if the format is only read.
    notices:  ``"module:function"`` of a `Notices`, optional.
    needs:    ``"module:function"`` of a `Needs`, optional. What it names cannot be waived, unlike a loss.
    instead:  a suffix to suggest for a checkpoint that lacks something by `needs`.
    extra:    the pip extra that the functions need, "" for none.
    options:  ``"module:Class"`` of the format's own options, a frozen dataclass of strings, integers and booleans with
              defaults; `option_table` describes them.
    graph:    whether it stores what the network computes, and not only its tensors.
    takes:    what its reader opens: a file, a folder, or either.
    main:     if a checkpoint is a folder: the file in it that points at the others. The writer's target is that
              file, in a folder made for it; the others are written beside it.
    sharded:  the format that ``--shard-size`` turns this one into.
    layout:   ``"module:function"`` of a `Layout`, if the writer splits tensors by ``--shard-size``. Without `main`,
              the first file stands for all (`formats.sets.numbered`).
    dialect:  whose tensor names and layouts it uses, if ``--translate`` can turn them into torch's.
    """

    name: str
    summary: str
    suffixes: tuple[str, ...]
    claims: str
    reader: str
    writer: str = ""
    magic: tuple[tuple[int, bytes], ...] = ()
    holds: Holds = Holds()
    notices: str = ""
    needs: str = ""
    instead: str = ""
    extra: str = ""
    options: str = ""
    graph: bool = False
    takes: tuple[Literal["file", "folder"], ...] = ("file",)
    main: str = ""
    sharded: str = ""
    layout: str = ""
    dialect: str = ""

    @property
    def numbered(self) -> bool:
        """Whether a checkpoint is several files without an index, of which the first stands for all."""
        return bool(self.layout) and not self.main

    def claims_file(self, source: Source | Folder) -> bool:
        """Whether the file's bytes, or the files in the folder, are in this format."""
        if not self._takes(source):
            return False
        if self.magic and not any(_has_magic(source, offset, magic) for offset, magic in self.magic):
            return False
        return bool(self._call(self.claims, source))

    def read(self, source: Source | Folder) -> Checkpoint:
        """Open `source`, which stays open as long as the checkpoint is. Raises UsageError if it is a file and the
        format takes only folders, or the other way round.
        """
        if not self._takes(source):
            raise UsageError(
                f"the format {self.name!r} is a {' or a '.join(self.takes)}, and this is a {_kind(source)}",
                path=source.path, hint="leave --from out, or name another path",
            )  # fmt: skip
        from ckptconv.core.checkpoint import Checkpoint

        checkpoint = self._call(self.reader, source)
        if not isinstance(checkpoint, Checkpoint):
            raise self._plugin_error(self.reader, f"it gives {type(checkpoint).__name__}, and no Checkpoint")
        return checkpoint

    def _takes(self, source: Source | Folder) -> bool:
        return _kind(source) in self.takes

    def write(self, checkpoint: Checkpoint, target: Target, options: WriteOptions) -> WriteResult:
        """Write into `target`. Raises UsageError if the format cannot be written."""
        if not self.writer:
            raise UsageError(f"the format {self.name!r} can be read but not written", hint="ckptconv formats")
        return cast("Writer", self._load(self.writer))(checkpoint, target, options)

    def layout_of(self, checkpoint: Checkpoint, limit: int, *, plain: bool) -> list[list[str]]:
        """The tensor names in each of the files that `checkpoint` is split into; a tie is listed by its first name."""
        return cast("Layout", self._load(self.layout))(checkpoint, limit, plain=plain)

    def notices_for(self, checkpoint: Checkpoint) -> list[Finding]:
        """What the user should know about the file that would be written, although nothing is lost."""
        return cast("Notices", self._load(self.notices))(checkpoint) if self.notices else []

    def lacking(self, checkpoint: Checkpoint) -> str:
        """What the checkpoint lacks that this format requires, in words; "" if nothing."""
        return cast("Needs", self._load(self.needs))(checkpoint) if self.needs else ""

    def option_table(self) -> list[OptionRow]:
        """The options that ``-O`` accepts."""
        return option_rows(cast("type", self._load(self.options))) if self.options else []

    def parse_options(self, given: Mapping[str, str]) -> object:
        """The format's own options, parsed from strings. Raises UsageError, which lists the names that exist."""
        if not self.options:
            if given:
                raise UsageError(f"the format {self.name!r} has no options of its own", hint="leave -O out")
            return None
        return parse_options(cast("type", self._load(self.options)), given)

    def _load(self, reference: str) -> object:
        module, _, function = reference.partition(":")
        try:
            return getattr(import_module(module), function)
        except ModuleNotFoundError as error:
            if self.extra and error.name and not error.name.startswith(module.partition(".")[0]):
                raise MissingExtraError(error.name, self.extra) from error
            raise self._load_error(reference, error) from error
        except (AttributeError, ImportError) as error:
            raise self._load_error(reference, error) from error

    def _call(self, reference: str, source: Source | Folder) -> object:
        """Call `claims` or `reader`; an error in a plug-in's function becomes a PluginError that names the plug-in."""
        function = cast("Claims | Reader", self._load(reference))
        if reference.startswith("ckptconv."):
            return function(source)
        try:
            return function(source)
        except (CkptconvError, OSError, MemoryError):
            raise
        except Exception as error:
            raise self._plugin_error(reference, f"{type(error).__name__}: {error}") from error

    def _plugin_error(self, reference: str, what: str) -> PluginError:
        return PluginError(
            f"the plug-in of the format {self.name!r} fails in {reference!r}: {what}", hint="tell those who make it"
        )

    def _load_error(self, reference: str, error: Exception) -> PluginError:
        return PluginError(f"the format {self.name!r} names {reference!r}, which does not load: {error}")


def _kind(source: Source | Folder) -> str:
    return "folder" if isinstance(source, Folder) else "file"


def _has_magic(source: Source | Folder, offset: int, magic: bytes) -> bool:
    if isinstance(source, Folder):
        return True  # a folder has no bytes to compare
    return offset + len(magic) <= source.size and bytes(source.read_at(offset, len(magic))) == magic
