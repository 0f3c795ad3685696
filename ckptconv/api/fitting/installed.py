"""A model whose class the library lacks: the transformers or diffusers that is installed is asked for it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.api.stated import config_beside, read_json
from ckptconv.arch.statements import CONFIG
from ckptconv.core.report import Finding
from ckptconv.errors import CkptconvError, MissingExtraError, UnknownClassError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckptconv.api.fitting.compare import Validation
    from ckptconv.api.request import Request
    from ckptconv.core.checkpoint import Checkpoint

REMOTE = "auto_map"
"""The key by which a config.json names Python of its own, which may define a class that transformers has otherwise."""


def by_its_class(request: Request, error: UnknownClassError, compare: Callable[[Request], Validation]) -> Validation:
    """The comparison with the class that the config.json names, built by the library whose class it is.

    error: what was to be said where nobody knows the class; it is raised, with what is in the way, where that library
    is not installed, cannot build it, or where it does not fit and the configuration names a class of its own.
    """
    asked = _of_its_class(request)
    with _in_the_way_of(error):
        result = compare(asked)
    if not result.valid:
        check_is_no_other(request, error)
    message = f"the library lacks {error.name!r}; the class was built by the {error.by} that is installed"
    return replace(result, evidence=CONFIG, findings=[Finding("class", "info", "", message), *result.findings])


def computed_by_its_class(
    request: Request, error: UnknownClassError, checkpoint: Checkpoint
) -> tuple[Request, Finding]:
    """The request for that class as what computes, once it is known that it can be built, and a word on it.

    Raises as `by_its_class`.
    """
    from ckptconv.api.fitting.resolve import resolve

    asked = _of_its_class(request)
    with _in_the_way_of(error):
        resolve(asked, checkpoint)
    message = f"the class {error.name!r}, built by the {error.by} that is installed, says what is computed"
    return asked, Finding("class", "info", "", message)


def check_is_no_other(request: Request, error: UnknownClassError) -> None:
    """Raise the error where the configuration of a model that does not fit the class names code of its own."""
    if REMOTE not in (read_json(config_beside(request.path))[0] or {}):
        return
    why = f"; {CONFIG} names code of its own ({REMOTE}), which is never run, and transformers' class does not fit"
    hint = "import its class yourself, --arch models.py:Net; or another checkpoint of it as --arch"
    raise _same(error, why, hint)


def _of_its_class(request: Request) -> Request:
    return replace(request, arch=str(config_beside(request.path)))


@contextmanager
def _in_the_way_of(error: UnknownClassError) -> Iterator[None]:
    """What keeps the class from being built becomes a part of the error."""
    try:
        yield
    except MissingExtraError as missing:
        hint = f"{missing.hint} lets its class be asked"
        raise _same(error, "", "; ".join([hint, *_nearest(error)])) from None
    except CkptconvError as failed:
        raise _same(error, f"; nor can it be built: {failed.message}", failed.hint) from failed


def _same(error: UnknownClassError, more: str, hint: str | None) -> UnknownClassError:
    return UnknownClassError(
        error.message + more, name=error.name, by=error.by, nearest=error.nearest, path=error.path, hint=hint
    )


def _nearest(error: UnknownClassError) -> list[str]:
    return [f"--arch {error.nearest} says what differs"] if error.nearest else []
