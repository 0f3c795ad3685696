"""The corpus: ``python -m tests.hostile.make FOLDER`` writes every file into a folder of its own."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tests.hostile import asked, between, bombs, others, pickles, polyglots, scripts, valid, zips

if TYPE_CHECKING:
    from tests.hostile.cases import Case


@cache
def corpus() -> tuple[Case, ...]:
    """Every case, made anew. Takes some seconds and, for a moment, some hundred MB."""
    made = [
        case
        for module in (pickles, asked, between, scripts, bombs, zips, others, polyglots, valid)
        for case in module.cases()
    ]
    slugs = [case.slug for case in made]
    assert len(set(slugs)) == len(slugs), "two cases of one name: " + next(s for s in slugs if slugs.count(s) > 1)
    return tuple(made)


def place(case: Case, root: Path) -> Path:
    """Write the case's file and what lies beside it; gives the file."""
    folder = root / case.slug
    folder.mkdir(parents=True)
    for name, data in case.beside.items():
        (folder / name).write_bytes(data)
    for name, to in case.links.items():
        (folder / name).symlink_to(to)
    path = folder / case.file
    path.write_bytes(case.data)
    return path


def main() -> None:
    """Write all of them."""
    root = Path(sys.argv[1])
    for case in corpus():
        place(case, root)
    print(f"{len(corpus())} files in {root}")


if __name__ == "__main__":
    main()
