"""Model classes that the library lacks, built by the installed transformers or diffusers."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.api.evidence import config_beside, read_json_if_valid
from ckptconv.arch.statements import CONFIG
from ckptconv.core.report import Finding
from ckptconv.errors import CkptconvError, MissingExtraError, UnknownClassError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckptconv.api.fitting.compare import Validation
    from ckptconv.api.request import Request
    from ckptconv.core.checkpoint import Checkpoint

CUSTOM_CODE = "auto_map"
"""The key under which a config.json names its own Python code. Its classes may share names with transformers'."""


def compare_with_installed_class(
    request: Request, error: UnknownClassError, compare: Callable[[Request], Validation]
) -> Validation:
    """Compare with the class that the config.json names, built by the package that has it.

    error: that the class is unknown. It is raised again, with the reason added, if the package is not installed or
           cannot build the class, or if the class does not fit and the configuration names code of its own.
    """
    with _adding_reasons_to(error):
        result = compare(_with_config_as_arch(request))
    if not result.valid:
        refuse_custom_class(request, error)
    message = f"the library lacks {error.name!r}; the class was built by the {error.by} that is installed"
    return replace(result, evidence=CONFIG, findings=[Finding("class", "info", "", message), *result.findings])


def request_for_installed_class(
    request: Request, error: UnknownClassError, checkpoint: Checkpoint
) -> tuple[Request, Finding]:
    """The request with that class as its architecture, once it is known that it can be built; and a finding that says
    so. Raises as `compare_with_installed_class` does.
    """
    from ckptconv.api.fitting.resolve import resolve

    asked = _with_config_as_arch(request)
    with _adding_reasons_to(error):
        resolve(asked, checkpoint)
    message = f"the class {error.name!r}, built by the {error.by} that is installed, says what is computed"
    return asked, Finding("class", "info", "", message)


def refuse_custom_class(request: Request, error: UnknownClassError) -> None:
    """Raise `error` if the configuration names code of its own, for a model that does not fit the package's class."""
    if CUSTOM_CODE not in (read_json_if_valid(config_beside(request.path))[0] or {}):
        return
    why = f"; {CONFIG} names code of its own ({CUSTOM_CODE}), which is never run, and transformers' class does not fit"
    hint = "import its class yourself, --arch models.py:Net; or another checkpoint of it as --arch"
    raise _with_reason(error, why, hint)


def _with_config_as_arch(request: Request) -> Request:
    return replace(request, arch=str(config_beside(request.path)))


@contextmanager
def _adding_reasons_to(error: UnknownClassError) -> Iterator[None]:
    """Raise `error` with the reason why the class cannot be built, if it cannot."""
    try:
        yield
    except MissingExtraError as missing:
        hint = f"{missing.hint} lets its class be asked"
        raise _with_reason(error, "", "; ".join([hint, *_nearest_hint(error)])) from None
    except CkptconvError as failed:
        raise _with_reason(error, f"; nor can it be built: {failed.message}", failed.hint) from failed


def _with_reason(error: UnknownClassError, more: str, hint: str | None) -> UnknownClassError:
    return UnknownClassError(
        error.message + more, name=error.name, by=error.by, nearest=error.nearest, path=error.path, hint=hint
    )


def _nearest_hint(error: UnknownClassError) -> list[str]:
    return [f"--arch {error.nearest} says what differs"] if error.nearest else []
