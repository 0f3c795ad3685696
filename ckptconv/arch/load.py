"""Loads specs: the library's by name, a file by its path, and the specs that these mount."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from ckptconv.arch.parse import parse_spec
from ckptconv.arch.rows import MAX_TEXT, WRITTEN
from ckptconv.errors import CkptconvError, CorruptFileError, LimitError, UsageError
from ckptconv.io.source import Source

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from ckptconv.arch.spec import Spec

MAX_MOUNTS = 8
"""How deep specs may be mounted inside one another."""


@dataclass(frozen=True, slots=True)
class LibraryEntry:
    """A spec that ships with ckptconv."""

    name: str
    summary: str


@cache
def _library_folder() -> Traversable:
    """Where the specs are. Asking for it takes as long as reading one."""
    return resources.files("ckptconv.arch") / "library"


@cache
def library_names() -> tuple[str, ...]:
    """Names of the specs that ship with ckptconv, sorted."""
    entries = _library_folder().iterdir()
    return tuple(sorted(entry.name[:-5] for entry in entries if entry.name.endswith(".toml")))


def library() -> list[LibraryEntry]:
    """The specs that ship with ckptconv. Reads all of them."""
    return [LibraryEntry(name, load_spec(name).summary) for name in library_names()]


@cache
def library_text(name: str) -> str:
    """The TOML text of a library spec. Raises UsageError for an unknown name."""
    if name not in library_names():
        raise UsageError(
            f"no architecture {name!r} in the library", hint=f"the library has {', '.join(library_names())}"
        )
    return (_library_folder() / f"{name}.toml").read_text("utf-8")


def load_spec(name: str | Path) -> Spec:
    """A library spec by its name, or a spec file by its path.

    A string with a separator, or that ends in ``.toml``, is a path. Raises UsageError for an unknown name;
    FileAccessError, CorruptFileError or LimitError, with the path, for a file.
    """
    text = str(name)
    if isinstance(name, str) and not text.endswith(".toml") and "/" not in text and "\\" not in text:
        return _library_spec(text)
    return _Loader(Path(name).parent).load_file(Path(name))


def parse_text(text: str, source: str = "") -> Spec:
    """A spec from TOML text. It may mount library specs only."""
    return _Loader(None).parse(text, source)


@cache
def _library_spec(name: str) -> Spec:
    return _Loader(None).load_library(name)


class _Loader:
    """Loads one spec and what it mounts. Each mounted spec is parsed once, however often it is mounted.

    folder: where spec files may be mounted from; None for nowhere.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.done: dict[str, Spec] = {}
        self.open: list[str] = []  # the sources that are being parsed, the outermost first

    def load_library(self, name: str) -> Spec:
        return self.parse(library_text(name), name)

    def load_file(self, path: Path) -> Spec:
        try:
            return self.parse(_read(path), str(path))
        except CkptconvError as error:
            raise error.at(path) from None

    def parse(self, text: str, source: str) -> Spec:
        if source in self.open:
            circle = " → ".join([*self.open, source])
            raise CorruptFileError(f"{source!r} mounts itself: {circle}", hint="take one of these mounts out")
        if len(self.open) >= MAX_MOUNTS:
            raise LimitError(f"more than {MAX_MOUNTS} specs mounted inside one another")
        self.open.append(source)
        try:
            return parse_spec(text, resolve=self.resolve, source=source)
        finally:
            self.open.pop()

    def resolve(self, use: str) -> Spec:
        """The spec that ``use = "…"`` names: of the library, or a file in the folder; never in another folder."""
        if use not in self.done:
            self.done[use] = self.load_mounted(use)
        return self.done[use]

    def load_mounted(self, use: str) -> Spec:
        if not use.endswith(".toml"):
            return self.load_library(use)
        if self.folder is None or Path(use).name != use or "\\" in use:
            raise UsageError(
                f"{use!r} is not a library name nor a file beside the spec",
                hint="put the file into the spec's folder; ckptconv arch list shows the library",
            )
        return self.load_file(self.folder / use)


def _read(path: Path) -> str:
    with Source(path) as source:
        data = source.read_all(4 * MAX_TEXT)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorruptFileError("not UTF-8 text", path=path, hint=WRITTEN) from error
