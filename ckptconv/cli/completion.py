"""What a shell offers on Tab: files, and the words that options take. Asked for by the shell alone."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import click
    from click.shell_completion import CompletionItem

    Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]

VARIABLE = "_CKPTCONV_COMPLETE"
"""The environment variable by which a shell asks, with the name of the shell and what it asks for: click's protocol."""


def answer(program: click.Command) -> None:
    """Answer the shell and exit, where it is one that asks."""
    if instruction := os.environ.get(VARIABLE):
        from click.shell_completion import shell_complete

        sys.exit(shell_complete(program, {}, "ckptconv", VARIABLE, instruction))


def files(incomplete: str) -> list[CompletionItem]:
    """Whatever the shell has of that name."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def words(find: Callable[[], Iterable[str]], *, or_files: bool = False) -> Complete:
    """Those of `find` that start so; with `or_files`, files where none does."""

    def complete(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        found = [CompletionItem(word) for word in find() if word.startswith(incomplete)]
        return found if found or not or_files else files(incomplete)

    return complete


def read_formats() -> Iterable[str]:
    """Names of the formats, for ``--from``."""
    from ckptconv.formats import registry

    return [one.name for one in registry.all_formats()]


def written_formats() -> Iterable[str]:
    """Names of the formats that are written, for ``--to``."""
    from ckptconv.formats import registry

    return [one.name for one in registry.all_formats() if one.writer]


def architectures() -> Iterable[str]:
    """Names of the library, for ``--arch``."""
    from ckptconv.arch.load import library_names

    return library_names()


def dialects() -> Iterable[str]:
    """What ``--translate`` takes."""
    from ckptconv.edits.translate import DIALECTS

    return DIALECTS


def schemes() -> Iterable[str]:
    """What ``--quantize`` takes."""
    from ckptconv.edits.quantizers.schemes import SCHEMES

    return SCHEMES


def dtypes() -> Iterable[str]:
    """What ``--dtype`` casts to."""
    from ckptconv.core.dtypes import PLAIN
    from ckptconv.edits.ggml.mixtures import MIXTURES
    from ckptconv.edits.ggml.quantize import QUANTIZED

    return (*PLAIN, *QUANTIZED, *MIXTURES)
