"""Finished files under their own names, before they are put in their places.

A graph names the file of its data by its path, so whoever reads both has to find them side by side. They are linked
into a folder of their own beside the target, which costs no copy; the next run removes one that a killed run left.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ckptconv.errors import FileAccessError
from ckptconv.io.source import reason
from ckptconv.io.target import folder_beside

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ckptconv.io.target import Target


@contextmanager
def staged(target: Target, neighbours: Sequence[str] = ()) -> Iterator[Path]:
    """The path of the unfinished target among its companions, until the context ends; `commit` may come before that.

    neighbours: files of the target's folder that are there already and belong to it, relative to that folder.

    Raises FileAccessError where the file system has no links.
    """
    with folder_beside(target.real) as folder:
        try:
            _link(target, neighbours, folder)
            yield folder / target.real.name
        finally:
            for name in os.listdir(folder):
                path = folder / name
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _link(target: Target, neighbours: Sequence[str], folder: Path) -> None:
    home = target.real.parent
    try:
        for one in (target, *target.companions):
            one.link_as(_place(folder, one.real, home))
        for name in neighbours:
            place = _place(folder, home / name, home)
            if not place.exists():
                os.link(os.path.realpath(home / name), place)
    except OSError as error:
        raise FileAccessError(
            f"cannot be read before it is in its place: {reason(error)}", path=target.path,
            hint="convert without --verify, and then: ckptconv verify SRC DST",
        ) from error  # fmt: skip


def _place(folder: Path, real: Path, home: Path) -> Path:
    place = folder / os.path.relpath(real, home)
    place.parent.mkdir(parents=True, exist_ok=True)
    return place
