"""What goes wrong with plug-ins: they raise when they are looked at, or end the process; they are no format, or one
of a name that is taken; and the functions of one that loads do not do what they promise.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.formats.base import Format

if TYPE_CHECKING:
    from ckptconv.io.source import Source

NUMBER = 3

FAILING = Format(
    name="failing",
    summary="a format whose functions fail",
    suffixes=(".failing",),
    magic=((0, b"FAIL"),),
    claims="broken_plugin:claims",
    reader="broken_plugin:read",
)
TAKEN = replace(FAILING, name="npz")


def claims(source: Source) -> bool:
    """Whether it is; where it should say no, it raises."""
    if bytes(source.read_at(0, source.size)) == b"FAIL in claims":
        raise ZeroDivisionError("it is broken on purpose")
    return True


def read(source: Source) -> object:
    """No Checkpoint, or nothing at all."""
    if bytes(source.read_at(0, source.size)) == b"FAIL in read":
        raise ZeroDivisionError("it is broken on purpose")
    return NUMBER


def __getattr__(name: str) -> object:
    if name == "EXITS":
        sys.exit(3)
    raise ZeroDivisionError(f"{name} is broken on purpose")
