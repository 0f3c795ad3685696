"""Shell completion: what Tab offers for files, and for options with known values."""

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
"""The environment variable by which a shell asks for completions (click's protocol)."""


def answer_shell(program: click.Command) -> None:
    """If a shell asks for completions, answer it and exit."""
    if instruction := os.environ.get(VARIABLE):
        from click.shell_completion import shell_complete

        sys.exit(shell_complete(program, {}, "ckptconv", VARIABLE, instruction))


def files(incomplete: str) -> list[CompletionItem]:
    """Let the shell complete file names."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def words(find: Callable[[], Iterable[str]], *, or_files: bool = False) -> Complete:
    """A completer for the words that `find` returns; with `or_files`, for file names if no word matches."""

    def complete(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        matching = [CompletionItem(word) for word in find() if word.startswith(incomplete)]
        return files(incomplete) if or_files and not matching else matching

    return complete


def read_formats() -> Iterable[str]:
    """The names of all formats, for ``--from``."""
    from ckptconv.formats import registry

    return [format.name for format in registry.all_formats()]


def written_formats() -> Iterable[str]:
    """The names of the formats that can be written, for ``--to``."""
    from ckptconv.formats import registry

    return [format.name for format in registry.all_formats() if format.writer]


def architectures() -> Iterable[str]:
    """The names of the library's specs, for ``--arch``."""
    from ckptconv.arch.load import library_names

    return library_names()


def dialects() -> Iterable[str]:
    """The dialects, for ``--translate``."""
    from ckptconv.edits.translate import DIALECTS

    return DIALECTS


def schemes() -> Iterable[str]:
    """The schemes, for ``--quantize``."""
    from ckptconv.edits.quantizers.schemes import SCHEMES

    return SCHEMES


def dtypes() -> Iterable[str]:
    """The types and mixtures, for ``--dtype``."""
    from ckptconv.core.dtypes import PLAIN
    from ckptconv.edits.ggml.mixtures import MIXTURES
    from ckptconv.edits.ggml.quantize import QUANTIZED

    return (*PLAIN, *QUANTIZED, *MIXTURES)
