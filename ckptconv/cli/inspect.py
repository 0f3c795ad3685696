"""``ckptconv inspect``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from ckptconv.cli import options, output
from ckptconv.cli.each import Answer, ask_each
from ckptconv.cli.progress import Bar

if TYPE_CHECKING:
    from ckptconv.api.inspect import Inspection
    from ckptconv.core.spelling import Json

EPILOG = """\b
Exit codes:
  0  fine
  1  with --fail-on-code: a file, or one in a folder, would run code;
     with --digest: a file does not match its recorded digest
  2  trouble: usage, unreadable, refused; other files are still inspected
\b
Examples:
  ckptconv inspect checkpoint.pth
  ckptconv inspect --fail-on-code downloads/*.pth
  ckptconv inspect --fail-on-code downloads/bert/
  ckptconv inspect --sizes model.safetensors
  ckptconv inspect --list model.safetensors | grep bias
  ckptconv inspect --tensor layers.0.weight --stats model.safetensors
  ckptconv inspect archive.zip/policy.pth
  ckptconv inspect --from gguf model-00002-of-00003.gguf
"""


@click.command(epilog=EPILOG, context_settings=options.SETTINGS, add_help_option=False)
@click.argument("sources", metavar="SRC...", nargs=-1, required=True, type=options.path_text)
@click.option(
    "--tree", "as_tree", is_flag=True, help="Show the tensors as a tree with repeated layers folded (default)."
)
@click.option("--list", "as_list", is_flag=True, help="Show one line per tensor, with full names, and nothing else.")
@click.option(
    "--sizes", is_flag=True, help="Add to each line of the tree the elements and bytes of all tensors below it."
)
@click.option("--stats", is_flag=True, help="Add min, max, mean, std, counts of NaN, Inf and zeros. Reads all values.")
@click.option("--tensor", metavar="NAME", help="Show one tensor: its header and its first and last values.")
@click.option("--digest", is_flag=True, help="Compute the content digest, and compare it with a recorded one.")
@click.option(
    "--fail-on-code",
    is_flag=True,
    help="Exit with 1 if loading a file with pickle, or a folder with its library, would run code from it.",
)
@options.from_("each SRC")
@options.json_
@options.debug
@options.help_
@click.pass_obj
def command(
    debug: bool, sources: tuple[str, ...], as_tree: bool, as_list: bool, sizes: bool, stats: bool,
    tensor: str | None, digest: bool, fail_on_code: bool, from_format: str | None, as_json: bool,
) -> int:  # fmt: skip
    """Show what is in each SRC: format, size, parameters, tensors, metadata, and whether it is safe to load.

    Only headers are read, unless --stats, --tensor or --digest ask for values. Nothing from the file is run. In a
    folder, every file counts that loading it would unpickle or run, whether or not it holds a checkpoint.
    """
    if as_tree + as_list + (tensor is not None) > 1:
        message = "--tree, --list and --tensor exclude each other"
        raise click.UsageError(message, click.get_current_context())
    if sizes and (as_list or tensor is not None):
        raise click.UsageError("--sizes is for the tree; --list has BYTES", click.get_current_context())
    view = _View(as_list, sizes, stats, tensor, digest, fail_on_code, from_format)

    def ask(source: str) -> Answer:
        answer = view.inspect(source, as_json=as_json)
        needs_title = len(sources) > 1 and (as_list or tensor is not None)  # a page begins with its path anyway
        title = [output.style(f"{output.printable(source)}:", "bold")] if needs_title and answer.lines else []
        return answer._replace(lines=[*title, *answer.lines])

    return ask_each(sources, ask, debug=debug, as_json=as_json, apart=True)


@dataclass(frozen=True, slots=True)
class _View:
    """What to show of every file."""

    as_list: bool
    sizes: bool
    stats: bool
    tensor: str | None
    digest: bool
    fail_on_code: bool
    from_format: str | None

    def inspect(self, source: str, *, as_json: bool) -> Answer:
        import ckptconv

        with Bar("reading") as bar:
            inspection = ckptconv.inspect(
                source, format=self.from_format, stats=self.stats and self.tensor is None, digest=self.digest,
                progress=bar,
            )  # fmt: skip
        if inspection.absent is not None and (self.as_list or self.tensor is not None):
            raise inspection.absent  # there are no tensors to show
        code = int((self.fail_on_code and inspection.verdict == "would run code") or inspection.digest_holds is False)
        if self.tensor is not None:
            document, lines = self._tensor_answer(inspection, self.tensor, as_json=as_json)
            return Answer(document, lines, code)
        if as_json:
            return Answer(_json_document(inspection), [], code)
        return Answer({}, self._page(inspection), code)

    def _page(self, inspection: Inspection) -> list[str]:
        from ckptconv.cli.text import inspect as text
        from ckptconv.cli.text.common import fields

        if not self.as_list:
            return text.page(inspection, sizes=self.sizes)
        _warn_of_code(inspection)
        lines = text.listing(inspection)
        return [*lines, *fields(text.digest(inspection), indent="")] if self.digest else lines

    def _tensor_answer(self, inspection: Inspection, name: str, *, as_json: bool) -> tuple[dict[str, Json], list[str]]:
        import ckptconv
        from ckptconv.checks.stats import stats
        from ckptconv.cli.text import inspect as text
        from ckptconv.cli.text import tensor
        from ckptconv.cli.text.columns import statistics
        from ckptconv.core.spelling import to_json

        with ckptconv.open(inspection.path, format=self.from_format) as checkpoint:
            name = tensor.find(checkpoint, name, inspection.path)
            figures = stats(checkpoint.all_tensors[name]) if self.stats else None
            if not as_json:
                _warn_of_code(inspection)
                extra_rows = statistics(figures) if self.stats else []
                extra_rows += text.digest(inspection) if self.digest else []
                return {}, tensor.view(checkpoint, name, extra_rows)
            first, last = tensor.ends(checkpoint.all_tensors[name])
        document = _json_document(inspection)
        entry = next(entry for entry in document["tensors"] if entry["name"] == name)
        if self.stats:
            entry["stats"] = None if figures is None else to_json(figures.to_dict())
        entry["values"] = {"first": to_json(first), "last": to_json(last)}
        return {**document, "tensors": [entry]}, []


def _json_document(inspection: Inspection) -> dict[str, Json]:
    """The inspection as a JSON document, in which statistics such as an infinite mean are spelled out."""
    from ckptconv.core.spelling import to_json

    document = inspection.to_dict()
    for entry in document["tensors"]:
        if entry.get("stats"):
            entry["stats"] = to_json(entry["stats"])
    return document


def _warn_of_code(inspection: Inspection) -> None:
    """Report a bad verdict on standard error, for output that does not include the page with the verdict."""
    from ckptconv.cli.text.loading import verdict

    if inspection.verdict == "would run code":
        output.complain([f"ckptconv: warning: {output.printable(str(inspection.path))}: {verdict(inspection)}"])
