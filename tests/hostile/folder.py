"""What a folder of the corpus is: `folders` and `named` have them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.hostile.cases import Verdict

MODULE = b"open('pwned', 'w').close()\nclass C: pass\n"


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder.

    files:   what lies in it beside ``model.safetensors``, by path.
    verdict: what `inspect` says. named: what it names for that.
    runs_if: the consent that something in it needs before it runs, for each.
    pickle:  the file that Python's own unpickler really runs, if there is one.
    """

    name: str
    files: Mapping[str, bytes]
    verdict: Verdict = "would run code"
    named: tuple[str, ...] = ()
    runs_if: tuple[str, ...] = ()
    pickle: str = ""
    links: Mapping[str, str] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """The name as a folder's name."""
        return "".join(c if c.isascii() and c.isalnum() else "-" for c in f"folder {self.name}")


def json_of(**values: object) -> bytes:
    return json.dumps(values).encode()
