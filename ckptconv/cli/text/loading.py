"""What `inspect` says that loading a file would run: the verdict, the objects that were not built, the names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.cli.output import printable
from ckptconv.cli.text.common import table
from ckptconv.cli.text.metadata import shortened, spelled
from ckptconv.core.metadata import RUNS
from ckptconv.core.text import cut, listed, plural

if TYPE_CHECKING:
    from ckptconv.api.inspect import Inspection
    from ckptconv.api.inspecting.uses import OpaqueUse
    from ckptconv.core.metadata import Opaque

MAX_OBJECTS = 20
"""The most opaque objects and calls to list; --json has all."""

MAX_CALL_LENGTH = 500
"""The most characters of a call to show."""

_FATES = {"called": "a call, not made", "handed": "may be called"}
"""What became of an object, by how the file would have made it; all others are kept as data."""


def verdict(inspection: Inspection) -> str:
    """What the verdict means, in a sentence."""
    uses = inspection.opaque
    options = listed(list(dict.fromkeys(use.only_if for use in inspection.runs_if)), 2)
    unless_asked = f" but with {options}" if options else ""
    match inspection.verdict:
        case "plain" if inspection.absent is not None:
            return f"nothing in it was found to run{unless_asked}"
        case "plain":
            return f"tensors and plain data, nothing that runs{unless_asked}"
        case "opaque":
            what = plural(len(uses), "object") if uses else "names"
            whose = "an unknown class" if len(uses) == 1 else "unknown classes"
            return f"{what} of {whose}, shown as data; nothing was found to run{unless_asked}"
        case _:
            return _call_summary([use for use in uses if use.runs])


def _call_summary(uses: list[OpaqueUse]) -> str:
    """What loading would call, or may call, and which library would do so."""
    loaders = listed(list(dict.fromkeys(use.by for use in uses)), 3)
    calls = [use for use in uses if use.node.how == "called"]
    named = listed([printable(name) for name in dict.fromkeys(use.node.name for use in calls or uses)], 3)
    if calls:
        return f"loading it with {loaders} would make {plural(len(calls), 'call')} ({named}); none was made here"
    return f"loading it with {loaders} may call {named}, which can run anything and which no data needs"


def object_lines(inspection: Inspection) -> list[str]:
    """The objects that were not built, those that would be called first."""
    wholes = [use for use in inspection.opaque if not use.part]
    uses = sorted(wholes, key=lambda use: use.node.how not in RUNS)
    rows = []
    for use in uses[:MAX_OBJECTS]:
        where = shortened(printable(use.where)) or "the root"
        what = _FATES.get(use.node.how, "kept as data")
        rows.append([where, what, _object_text(use.node)])
    lines = table(rows)
    if (more := len(inspection.opaque) - len(rows)) > 0:
        rest = f"{more:,} of their parts" if len(uses) <= MAX_OBJECTS else f"{more:,} more"
        lines.append(f"… and {rest}; --json lists all")
    return lines


def optional_lines(inspection: Inspection) -> list[str]:
    """What runs only with an option of the library that loads the file."""
    uses = inspection.runs_if
    rows = [
        [shortened(printable(use.where)), shortened(printable(use.node.name)), f"by {use.by}, if {use.only_if}"]
        for use in uses[:MAX_OBJECTS]
    ]
    more = [f"… and {len(uses) - MAX_OBJECTS:,} more; --json lists all"] if len(uses) > MAX_OBJECTS else []
    return [*table(rows), *more]


def _object_text(node: Opaque) -> str:
    """The object, shortened. A call gets more room, as its arguments show what it would do."""
    if node.how != "called":
        return shortened(spelled(node))
    return cut(spelled(node, MAX_CALL_LENGTH), MAX_CALL_LENGTH)


def name_lines(inspection: Inspection) -> list[str]:
    """Every name that is not known here, and whether it would or may be called."""
    uses = sorted((use for use in inspection.globals if not use.known), key=lambda use: not use.called)
    calls = {use.node.name for use in inspection.opaque if use.node.how == "called"}
    values = {use.node.name for use in inspection.opaque if use.node.how == "constructed"} - calls
    handed = {use.node.name for use in inspection.opaque if use.node.how == "handed"}
    rows = []
    for use in uses[:MAX_OBJECTS]:
        called = "makes a plain value" if use.name in values else "would be called"
        unasked = "may be called" if use.name in handed else "named"
        rows.append([printable(use.name), called if use.called else unasked])
    lines = table(rows)
    if len(uses) > MAX_OBJECTS:
        lines.append(f"… and {len(uses) - MAX_OBJECTS:,} more; --json lists all")
    return lines
