"""What a file of the corpus is, and what is expected of it.

A payload, if it ran, would make a file called MARKER in the working folder, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import pack
from typing import TYPE_CHECKING, Literal

from tests.support.craft import FOUR_FLOATS, SMALL_RECORDS, state_dict, tensor, text, zip_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

MARKER = "pwned"
SHELL = f"touch {MARKER}"
PYTHON = f"open('{MARKER}', 'w').close()"

Verdict = Literal["plain", "opaque", "would run code", "refused"]

COMMANDS = ("inspect", "inspect --fail-on-code", "convert", "convert --bare")

CODES: dict[Verdict, tuple[int, int, int, int]] = {
    "plain": (0, 0, 0, 0),
    "opaque": (0, 0, 0, 0),
    "would run code": (0, 1, 2, 0),
    "refused": (2, 2, 2, 2),
}
"""Exit codes of the COMMANDS that follow from the verdict, unless a case says otherwise."""


@dataclass(frozen=True, slots=True)
class Case:
    """One file.

    verdict: what `inspect` says; "refused" is an error.
    codes:   exit codes of the COMMANDS.
    live:    whether Python's own unpickler really makes the MARKER, on Linux.
    hostile: whether a scanner should flag it; None where it is damaged rather than dangerous.
    beside:  other files in its folder.
    links:   symbolic links in its folder.
    may_be_refused: whether refusing it is as good: not every container has a reader.
    loader:  of `loaders`: the one that really makes the MARKER, where Python's own unpickler does not.
    """

    name: str
    category: str
    data: bytes
    verdict: Verdict = "refused"
    codes: tuple[int, int, int, int] = (2, 2, 2, 2)
    live: bool = False
    hostile: bool | None = None
    suffix: str = ".pth"
    beside: Mapping[str, bytes] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    may_be_refused: bool = False
    loader: str = ""

    @property
    def file(self) -> str:
        """The file's name in its folder."""
        return f"model{self.suffix}"

    @property
    def slug(self) -> str:
        """The name as a folder's name."""
        return "".join(c if c.isascii() and c.isalnum() else "-" for c in f"{self.category} {self.name}")


SMALL = [(f"a/{name}", data) for name, data in SMALL_RECORDS.items()]


def checkpoint(pickle: bytes, storages: Mapping[str, bytes] | None = None) -> bytes:
    """A .pth of this pickle."""
    records = {"0": FOUR_FLOATS} if storages is None else storages
    return zip_bytes([*SMALL, ("a/data.pkl", pickle), *((f"a/data/{key}", data) for key, data in records.items())])


ONE = b"}" + text("w") + tensor() + b"s"
"""A state_dict of one tensor, as opcodes."""


def beside(value: bytes, protocol: int = 2) -> bytes:
    """A pickle of a state_dict, with `value` beside it, which the model does not depend on."""
    return b"\x80" + bytes([protocol]) + state_dict(state_dict=ONE, m=value)[2:]


def named(module: str, name: str) -> bytes:
    """A global, spelled with a line for each half."""
    return f"c{module}\n{name}\n".encode()


def stacked(module: str, name: str) -> bytes:
    """A global whose name is taken from the stack; it may hold anything."""
    return text(module) + text(name) + b"\x93"


def call(module: str, name: str, *args: bytes) -> bytes:
    """A call by REDUCE, its arguments given as opcodes."""
    return named(module, name) + b"(" + b"".join(args) + b"tR"


def number(value: int) -> bytes:
    """An int of eight bytes."""
    return b"\x8a\x08" + pack("<q", value)


RUN = text(SHELL)
SYSTEM = call("os", "system", RUN)
