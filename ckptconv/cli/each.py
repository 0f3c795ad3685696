"""Runs a command on each of several files; an error in one is reported, and does not stop the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ckptconv.cli import output, trouble
from ckptconv.errors import CkptconvError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ckptconv.core.spelling import Json


class Answer(NamedTuple):
    """The result for one file: its JSON document or its lines of text, whichever is wanted, and the exit code."""

    document: dict[str, Json]
    lines: list[str]
    code: int


def ask_each(sources: Sequence[str], ask: Callable[[str], Answer], *, debug: bool, as_json: bool, apart: bool) -> int:
    """Call `ask` on every source and print the answers. Returns the worst exit code.

    apart: print a blank line between answers.

    Raises what `ask` raises for the only file, and usage errors that are not about a file.
    """
    documents: list[Json] = []
    worst = 0
    for position, source in enumerate(sources):
        try:
            answer = ask(source)
        except (CkptconvError, MemoryError, RecursionError) as error:
            if len(sources) == 1 or (isinstance(error, UsageError) and error.path is None):
                raise
            answer = _failed(source, error, debug=debug)
        documents.append(answer.document)
        worst = max(worst, answer.code)
        if answer.lines:
            output.emit_lines([*([""] if apart and position else []), *answer.lines])
    if as_json:
        output.emit_json({"files": documents} if len(sources) > 1 else answer.document)
    return worst


def _failed(source: str, error: Exception, *, debug: bool) -> Answer:
    located = trouble.as_ckptconv_error(error).at(source)
    trouble.report(located, debug=debug)
    return Answer({"path": source, "error": trouble.as_dict(located)}, [], 2)
