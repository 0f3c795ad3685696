"""What a checkpoint has that is not built here: objects of unknown classes, calls, and what others would run of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ckptconv.core.metadata import RUNS, Opaque, opaque_wholes, spell_path, walk
from ckptconv.core.names import Names
from ckptconv.core.spelling import to_json
from ckptconv.formats.code import evaluated, kept
from ckptconv.formats.trees.omegaconf import OMEGACONF, is_settings, plain_settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.notes import GlobalUse, Program
    from ckptconv.core.report import Finding
    from ckptconv.core.spelling import Json

ELSEWHERE = "elsewhere in the pickle"
"""Where an object stands that the pickle makes and then throws away, or keeps as an attribute."""

PICKLE = "pickle"

UNFOLLOWED = "cannot be followed: "
"""Before the reason why nobody can say what a pickle calls."""


@dataclass(frozen=True, slots=True)
class OpaqueUse:
    """An object that was not built: where it stands and how the pickle would have made it.

    part:    whether it is in another one of them, and no call.
    by:      who would make it, or run it.
    only_if: what they have to be told before they do; "" where they do not ask.
    """

    where: str
    node: Opaque
    part: bool = False
    by: str = PICKLE
    only_if: str = ""

    @property
    def runs(self) -> bool:
        """Whether loading the file calls it, or may do so, and nobody is asked first."""
        return self.node.how in RUNS and not self.only_if

    def to_dict(self) -> dict[str, Json]:
        """As ``inspect --json`` prints it."""
        document: dict[str, Json] = {
            "class": self.node.name,
            "where": self.where,
            "called": self.node.how == "called",
            "how": self.node.how,
            "args": [to_json(arg) for arg in self.node.args],
            "kwargs": {key: to_json(arg) for key, arg in self.node.kwargs.items()},
            "state": to_json(self.node.state),
            "by": self.by,
        }
        return {**document, "only_if": self.only_if} if self.only_if else document


@dataclass(slots=True)
class Beside:
    """What was found beside a checkpoint in its folder (`ckptconv.api.inspecting.beside`).

    uses:     what is not built here, each with the file that it stands in.
    globals:  what pickles name.
    findings: what was looked at, and what was not.
    """

    uses: list[OpaqueUse] = field(default_factory=list)
    globals: list[GlobalUse] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def uses_of(checkpoint: Checkpoint) -> list[OpaqueUse]:
    """All of a checkpoint's: those in its metadata, in its order, those elsewhere in its pickles, and programs."""
    found = _uses(checkpoint.root)
    for unseen in checkpoint.notes.unseen:
        found += [replace(use, where=ELSEWHERE) for use in _uses(unseen)]
    said = [*evaluated.programs_in(checkpoint.root), *kept.programs_in(checkpoint.root)]
    if any(use.node.name.startswith(OMEGACONF) for use in found):
        for path, node in _settings_in(checkpoint.root):
            said += kept.named_in(node, path)
    return found + of_programs((*checkpoint.notes.programs, *said))


def _settings_in(root: MetaNode) -> Iterator[tuple[tuple[object, ...], MetaNode]]:
    """OmegaConf's trees, each with the path to it, but for those in others."""
    inside: tuple[object, ...] | None = None
    for path, node in walk(root):
        is_inner = inside is not None and path[: len(inside)] == inside
        if not is_inner and isinstance(node, Opaque) and is_settings(node):
            inside = path
            yield path, plain_settings(node)


def joined(above: str, where: str) -> str:
    """The place of something in a file, and where that stands."""
    return f"{above}: {where}" if above and where else above or where


def of_programs(programs: Iterable[Program]) -> list[OpaqueUse]:
    """What others would import or run."""
    return [OpaqueUse(one.where, one.node, by=one.by, only_if=one.only_if) for one in programs]


def _uses(root: MetaNode) -> list[OpaqueUse]:
    """Every object in the tree that was not built, in its order."""
    wholes, names = {id(node) for _, node in opaque_wholes(root)}, Names()
    return [
        OpaqueUse(names.made(spell_path(path)), node, id(node) not in wholes)
        for path, node in walk(root)
        if isinstance(node, Opaque) and node.how not in ("enclosing", "unread")
    ]
