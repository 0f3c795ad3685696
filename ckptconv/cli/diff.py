"""``ckptconv diff``."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from ckptconv.cli import options, output
from ckptconv.cli.progress import Bar
from ckptconv.errors import UsageError

if TYPE_CHECKING:
    from ckptconv.api.diff import Difference
    from ckptconv.io.target import Target

EPILOG = """\b
Other tolerances for some tensors; the last GLOB that matches a name counts:
  --tol '*.bias=atol:1e-6'
  --tol 'encoder.*=rtol:1e-3,atol:1e-5,ulp:4'
\b
Exit codes:
  0  equal, as far as the tolerances go
  1  different
  2  trouble: usage, unreadable, refused
\b
Examples:
  ckptconv diff before.pth after.safetensors
  ckptconv diff --headers theirs.pth mine.pth
  ckptconv diff a.safetensors b.safetensors --rtol 1e-3 --atol 1e-5 --tol 'head.*=ulp:1'
  ckptconv diff --json a.pth b.pth
  ckptconv diff whole.gguf model-00001-of-00003.gguf --from-b gguf
  ckptconv diff before.pth after.pth --html changes.html
  ckptconv diff qwen2/ qwen2.gguf --bare
"""


@click.command(epilog=EPILOG, context_settings=options.SETTINGS, add_help_option=False)
@click.argument("a", metavar="A", type=options.path_text)
@click.argument("b", metavar="B", type=options.path_text)
@click.option("--headers", is_flag=True, help="Compare names, shapes, types, ties and metadata; read no values.")
@click.option("--bare", is_flag=True, help="Compare only the model's tensors: no metadata, no other tensors.")
@click.option("--no-translate", is_flag=True, help="Compare what is in the files as it is.")
@click.option("--rtol", type=float, metavar="X", help="Allow |b - a| <= atol + X * |a|, as numpy.isclose; NaN is NaN.")
@click.option("--atol", type=float, metavar="X", help="Allow |b - a| <= X + rtol * |a|.")
@click.option("--ulp", type=int, metavar="N", help="Allow N representable values from one to the other.")
@click.option(
    "--tol", "tolerances", metavar="GLOB=…", multiple=True,
    help="Allow other bounds for the tensors whose names match: rtol:X,atol:X,ulp:N, any of the three. Repeatable.",
)  # fmt: skip
@click.option(
    "--html", metavar="FILE", type=options.path_text,
    help="Also write a self-contained HTML page: verdict, heat-map, histograms, a search. Needs the extra 'report'.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Replace the page if it exists.")
@options.from_each
@options.json_
@options.debug
@options.help_
def command(
    a: str, b: str, headers: bool, bare: bool, no_translate: bool, rtol: float | None, atol: float | None,
    ulp: int | None, tolerances: tuple[str, ...], html: str | None, force: bool, from_format: str | None,
    from_a: str | None, from_b: str | None, as_json: bool,
) -> int:  # fmt: skip
    """Show what changed from A to B: renames and other edits, values, ties, metadata. Any two formats.

    Equal means equal names, shapes, element types, bits, ties and typed metadata; the container, the order of tensors
    and strides do not count. Without tolerances, bits must be equal: 0.0 is not -0.0, and NaNs need the same bits.
    Files of different frameworks, such as Keras, Flax or a GGUF beside torch, are read under the names that --translate
    gives both, quantized weights beside plain ones as --dequantize makes them, and batch norms that one side has folded
    into the layers before are folded in the other; diff says so.
    """
    if headers and (tolerances or any(bound is not None for bound in (rtol, atol, ulp))):
        raise click.UsageError("--headers reads no values: tolerances say nothing", click.get_current_context())
    if force and html is None:
        raise click.UsageError("--force needs --html", click.get_current_context())
    target = None if html is None else _target(html, (a, b), force=force)
    import ckptconv

    with Bar("comparing") as bar:
        result = ckptconv.diff(
            a, b, headers=headers, bare=bare, translate=not no_translate, rtol=rtol or 0.0, atol=atol or 0.0,
            ulp=ulp or 0, tolerances=tolerances, histograms=target is not None, expected_format=from_a or from_format,
            found_format=from_b or from_format, progress=bar,
        )  # fmt: skip
    if target is not None:
        from ckptconv.cli import report

        report.write(result, target)
    if as_json:
        output.emit_json(result.to_dict())
    else:
        _show(result)
    return int(not result.equal)


def _target(html: str, compared: tuple[str, str], *, force: bool) -> Target:
    """Where the page is written. Raises, before anything is read, if it cannot be made or written."""
    from ckptconv.cli import report
    from ckptconv.io.target import Target

    report.require()
    with suppress(OSError, ValueError):  # a missing file is reported when it is opened
        for path in compared:
            if os.path.samefile(html, path):
                raise UsageError("the page would replace a checkpoint", path=html, hint="give it a name of its own")
    return Target(html, replace=force)


def _show(result: Difference) -> None:
    from ckptconv.cli.text import diff as text

    output.emit_lines(text.page(result))
