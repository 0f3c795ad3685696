"""Makes calls of the operating system fail, to see what is left on disk."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING
from unittest.mock import patch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

CALLS = ("open", "pwrite", "write", "ftruncate", "statvfs", "fchmod", "chmod", "fsync", "link", "rename", "replace")
"""The functions of `os` that create and write files; those that clean up are not touched."""


class Counter:
    """Counts the calls; the one numbered `fail_at` raises `error` before it takes effect."""

    def __init__(self, fail_at: int = 0, error: BaseException | None = None) -> None:
        self.calls = 0
        self._fail_at = fail_at
        self._error = error

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that counts its calls and calls `function`."""

        def counted(*args: Any, **keywords: Any) -> Any:
            self.calls += 1
            if self.calls == self._fail_at and self._error is not None:
                raise self._error
            return function(*args, **keywords)

        return counted


@contextmanager
def failing(fail_at: int = 0, error: BaseException | None = None) -> Iterator[Counter]:
    """Within the block, the `fail_at`-th of the CALLS raises `error`; with the defaults they are only counted."""
    counter = Counter(fail_at, error)
    with _replaced({name: counter.wrap(getattr(os, name)) for name in CALLS if hasattr(os, name)}):
        yield counter


@contextmanager
def short_writes(most: int = 7) -> Iterator[None]:
    """Within the block, no write accepts more than `most` bytes at a time, as a kernel is allowed to do."""
    write, pwrite = os.write, getattr(os, "pwrite", None)
    functions: dict[str, Callable[..., Any]] = {"write": lambda fd, data: write(fd, memoryview(data)[:most])}
    if pwrite is not None:
        functions["pwrite"] = lambda fd, data, offset: pwrite(fd, memoryview(data)[:most], offset)
    with _replaced(functions):
        yield


@contextmanager
def _replaced(functions: dict[str, Callable[..., Any]]) -> Iterator[None]:
    supported = [(getattr(os, name), functions[name]) for name in functions]
    with ExitStack() as stack:
        for name, new in functions.items():
            stack.enter_context(patch.object(os, name, new))
        # `os.chmod in os.supports_fd` compares the functions themselves
        for group in ("supports_fd", "supports_follow_symlinks", "supports_dir_fd"):
            members = getattr(os, group)
            stack.enter_context(patch.object(os, group, members | {new for old, new in supported if old in members}))
        yield
