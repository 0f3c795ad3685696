"""One question to each of several files: what goes wrong with one is told, and the others are asked all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ckptconv.cli import output, trouble
from ckptconv.errors import CkptconvError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ckptconv.core.spelling import Json


class Answer(NamedTuple):
    """What is said of one file: its JSON document or its lines of text, whichever is wanted, and the exit code."""

    document: dict[str, Json]
    lines: list[str]
    code: int


def ask_each(sources: Sequence[str], ask: Callable[[str], Answer], *, debug: bool, as_json: bool, apart: bool) -> int:
    """Ask, and show the answers; the worst exit code. `apart`: with a blank line between two.

    Raises what `ask` raises of a file that is the only one, and what would be wrong with any file.
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
    ours = trouble.understood(error).at(source)
    trouble.report(ours, debug=debug)
    return Answer({"path": source, "error": trouble.as_dict(ours)}, [], 2)
