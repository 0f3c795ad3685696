"""Makes unfinished files readable under their final names, in a folder of their own.

A graph refers to its data file by a relative path, so a reader has to find both side by side. They are hard-linked into
a folder beside the target, without copying; if links are not possible, they are copied. The next run removes a folder
that a killed run left, if folders can be locked.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from ckptconv.errors import FileAccessError
from ckptconv.io import access
from ckptconv.io.leftovers import folder_beside
from ckptconv.io.source import reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from ckptconv.io.target import Target


@contextmanager
def staged(target: Target, neighbours: Sequence[str] = ()) -> Iterator[Path]:
    """The path of the unfinished target, beside its companions, until the context ends. `commit` may come before that.

    neighbours: existing files in the target's folder that belong to it, relative to that folder.

    Raises FileAccessError if the files can neither be linked nor copied.
    """
    with folder_beside(target.real) as folder:
        try:
            _fill(folder, target, neighbours)
            yield folder / target.real.name
        finally:
            for name in os.listdir(folder):
                path = folder / name
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _fill(folder: Path, target: Target, neighbours: Sequence[str]) -> None:
    home = target.real.parent
    try:
        for unfinished in (target, *target.companions):
            path = _staged_path(folder, unfinished.real, home)
            _link_or_copy(unfinished.link_as, unfinished.readable_path, path)
        for name in neighbours:
            path = _staged_path(folder, home / name, home)
            if not path.exists():
                existing = os.path.realpath(home / name)
                _link_or_copy(partial(os.link, existing), existing, path)
    except OSError as error:
        raise FileAccessError(
            f"cannot be read before it is in its place: {reason(error)}", path=target.path,
            hint="convert without --verify, and then: ckptconv verify SRC DST",
        ) from error  # fmt: skip


def _link_or_copy(link: Callable[[Path], None], source: str | Path, path: Path) -> None:
    """Give a file another name, or copy it if links are not possible, or could not be removed again."""
    try:
        if not access.HELD_BY_HANDLES:
            link(path)
            return
    except OSError:
        pass
    shutil.copyfile(source, path)


def _staged_path(folder: Path, real: Path, home: Path) -> Path:
    """The path in `folder` that a file has relative to `home`. Makes its parent folders."""
    path = folder / os.path.relpath(real, home)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
