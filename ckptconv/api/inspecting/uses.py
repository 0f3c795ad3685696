"""What a checkpoint has that is not built here: objects of unknown classes, calls, and what other libraries run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ckptconv.core.metadata import RUNS, Opaque, opaque_wholes, spell_path, walk
from ckptconv.core.names import NameBudget
from ckptconv.core.report import Finding
from ckptconv.core.spelling import to_json
from ckptconv.formats.code import evaluated, trainer_settings
from ckptconv.formats.trees.omegaconf import OMEGACONF, is_settings, plain_settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.notes import GlobalUse, Program
    from ckptconv.core.spelling import Json

ELSEWHERE = "elsewhere in the pickle"
"""The place of an object that the pickle builds and then drops, or keeps as an attribute."""

PICKLE = "pickle"

UNFOLLOWED = "cannot be followed: "
"""The prefix of a reason why it is unknown what a pickle calls."""


@dataclass(frozen=True, slots=True)
class OpaqueUse:
    """An object that was not built: where it stands and how the pickle would have made it.

    part:    whether it is a part of another such object, and not a call.
    by:      the library or module that would build or run it.
    only_if: the option by which that library asks for consent; "" if it does not ask.
    """

    where: str
    node: Opaque
    part: bool = False
    by: str = PICKLE
    only_if: str = ""

    @property
    def runs(self) -> bool:
        """Whether loading the file calls it, or may call it, without asking for consent."""
        return self.node.how in RUNS and not self.only_if

    def to_dict(self) -> dict[str, Json]:
        """The object as ``inspect --json`` prints it."""
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
class OtherFiles:
    """What was found in the files that come with a checkpoint: beside it (`ckptconv.api.inspecting.beside`), or
    embedded in its metadata.

    uses:     what is not built here, each with the file that it stands in.
    globals:  the names that pickles mention.
    findings: what was looked at, and what was not.
    """

    uses: list[OpaqueUse] = field(default_factory=list)
    globals: list[GlobalUse] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def uses_of(checkpoint: Checkpoint) -> list[OpaqueUse]:
    """All uses of one checkpoint: objects in its metadata, in order; those elsewhere in its pickles; then programs."""
    uses = _unbuilt_objects(checkpoint.root)
    for unseen in checkpoint.notes.unseen:
        uses += [replace(use, where=ELSEWHERE) for use in _unbuilt_objects(unseen)]
    programs = [*evaluated.programs_in(checkpoint.root), *trainer_settings.programs_in(checkpoint.root)]
    if any(use.node.name.startswith(OMEGACONF) for use in uses):
        for path, node in _omegaconf_trees(checkpoint.root):
            programs += trainer_settings.targets_in(node, path)
    return uses + uses_of_programs((*checkpoint.notes.programs, *programs))


def _omegaconf_trees(root: MetaNode) -> Iterator[tuple[tuple[object, ...], MetaNode]]:
    """The outermost OmegaConf trees, each with the path to it."""
    inside: tuple[object, ...] | None = None
    for path, node in walk(root):
        is_inner = inside is not None and path[: len(inside)] == inside
        if not is_inner and isinstance(node, Opaque) and is_settings(node):
            inside = path
            yield path, plain_settings(node)


def join_where(above: str, where: str) -> str:
    """``"file: place"``, or the one of them that is not empty."""
    return f"{above}: {where}" if above and where else above or where


def not_looked_at(path: str, why: str) -> Finding:
    """The warning for a file that could not be inspected."""
    return Finding("not-looked-at", "warning", path, f"{path!r} was not looked into: {why}")


def uses_of_programs(programs: Iterable[Program]) -> list[OpaqueUse]:
    """Each program as a use."""
    return [OpaqueUse(program.where, program.node, by=program.by, only_if=program.only_if) for program in programs]


def _unbuilt_objects(root: MetaNode) -> list[OpaqueUse]:
    """Every object in the tree that was not built, in the tree's order."""
    wholes = {id(node) for _, node in opaque_wholes(root)}
    name_budget = NameBudget()
    return [
        OpaqueUse(name_budget.counted(spell_path(path)), node, part=id(node) not in wholes)
        for path, node in walk(root)
        if isinstance(node, Opaque) and node.how not in ("enclosing", "unread")
    ]
