"""Validating a model whose class the library lacks: the transformers or diffusers that is installed is asked for it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.api.stated import config_beside, read_json
from ckptconv.arch.statements import CONFIG
from ckptconv.core.report import Finding
from ckptconv.errors import CkptconvError, MissingExtraError, UnknownClassError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptconv.api.fitting.compare import Validation
    from ckptconv.api.request import Request

REMOTE = "auto_map"
"""The key by which a config.json names Python of its own, which may define a class that transformers has otherwise."""


def by_its_class(request: Request, error: UnknownClassError, compare: Callable[[Request], Validation]) -> Validation:
    """The comparison with the class that the config.json names, built by the library whose class it is.

    error: what was to be said where nobody knows the class; it is raised, with what is in the way, where that library
    is not installed, cannot build it, or where it does not fit and the configuration names a class of its own.
    """
    config = config_beside(request.path)
    try:
        result = compare(replace(request, arch=str(config)))
    except MissingExtraError as missing:
        hint = f"{missing.hint} lets its class be asked"
        raise _same(error, "", "; ".join([hint, *_nearest(error)])) from None
    except CkptconvError as failed:
        raise _same(error, f"; nor can it be built: {failed.message}", failed.hint) from failed
    if not result.valid and REMOTE in (read_json(config)[0] or {}):
        why = f"; {CONFIG} names code of its own ({REMOTE}), which is never run, and transformers' class does not fit"
        raise _same(
            error, why, "import its class yourself, --arch models.py:Net; or another checkpoint of it as --arch"
        )
    message = f"the library lacks {error.name!r}; the class was built by the {error.by} that is installed"
    return replace(result, evidence=CONFIG, findings=[Finding("class", "info", "", message), *result.findings])


def _same(error: UnknownClassError, more: str, hint: str | None) -> UnknownClassError:
    return UnknownClassError(
        error.message + more, name=error.name, by=error.by, nearest=error.nearest, path=error.path, hint=hint
    )


def _nearest(error: UnknownClassError) -> list[str]:
    return [f"--arch {error.nearest} says what differs"] if error.nearest else []
