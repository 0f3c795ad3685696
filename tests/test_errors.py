"""Errors: the tree that is drawn, their one line, what a traceback adds, and their way out of another process."""

from __future__ import annotations

import ast
import inspect
import logging
import pickle
import re
import traceback
from pathlib import Path

import pytest

import ckptconv
from ckptconv import errors
from ckptconv.core.report import Finding
from ckptconv.errors import CkptconvError

LOSS = Finding("opaque", "error", "x", "x is a pkg.Thing, which would become a dict", hint="--allow-loss opaque")
MADE = [
    errors.DamagedTensorError("w", path="a.pth"),
    errors.LossError([LOSS], path=Path("a.pth"), hint="--bare"),
    errors.MisfitError("mlp", [LOSS], path="a.pth", hint="ckptconv validate a.pth"),
    errors.TemplateError(["a is missing", "b is missing"]),
    errors.RunError("a.pth", ValueError("no such shape")),
    errors.NotEquivalentError({"equivalent": False}, path="a.pth", details=["w differs"]),
    errors.MissingExtraError("torch", "verify"),
    errors.UnknownClassError("it says 'Net'", name="Net", nearest="mlp", path="a.pth", hint="--arch mlp"),
]
"""The errors whose arguments are more than a message."""

PLAIN = sorted({one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, CkptconvError)}
               - {type(error) for error in MADE}, key=lambda kind: kind.__name__)  # fmt: skip


def test_the_tree_that_is_drawn_is_the_tree_of_classes() -> None:
    assert errors.__doc__ is not None
    drawn: list[tuple[str, str]] = []
    above = ["Exception"]
    for line in errors.__doc__.splitlines():
        if row := re.match(r"    ((?:[│ ]   )*(?:[├└]── )?)(\w+Error)  ", line):
            depth = len(row[1]) // 4
            del above[depth + 1 :]
            drawn.append((row[2], above[-1]))
            above.append(row[2])
    classes = [one for _, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, CkptconvError)]
    assert sorted(drawn) == sorted((one.__name__, one.__bases__[0].__name__) for one in classes)


def test_the_line_names_the_file_as_the_systems_own_errors_do(tmp_path: Path) -> None:
    path = tmp_path / "missing.pth"
    with pytest.raises(CkptconvError) as caught:
        ckptconv.open(path)
    assert str(caught.value) == f"{path}: cannot open: no such file or directory"
    assert caught.value.message == "cannot open: no such file or directory"
    assert str(CkptconvError("it is about no file")) == "it is about no file"


def test_a_traceback_shows_details_and_hint_below_the_line() -> None:
    text = "".join(traceback.format_exception(errors.LossError([LOSS], path="a.pth", hint="--bare")))
    assert text.splitlines()[-3:] == [
        "ckptconv.errors.LossError: a.pth: the target cannot hold everything: 1 loss, none agreed to",
        "  opaque: x is a pkg.Thing, which would become a dict",
        "hint: --bare",
    ]


def test_a_damaged_file_and_one_that_claims_too_much_have_a_usual_hint() -> None:
    assert errors.CorruptFileError("x").hint == "copy the file again from its source"
    assert errors.LimitError("x").hint == "do not trust it"
    assert errors.LimitError("x", hint="name a file in it").hint == "name a file in it"
    assert CkptconvError("x").hint is None


REFUSALS = {"EditError", "UnsafeError", "UnsupportedError", "UsageError"}
"""Errors of which each says what to do in its own words."""


def test_every_refusal_has_a_hint() -> None:
    without = [
        f"{path.name}:{node.lineno}"
        for path in Path(ckptconv.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in REFUSALS
        if not any(keyword.arg == "hint" for keyword in node.keywords)
    ]
    assert not without


def test_a_hint_that_comes_later_is_shown_as_well_and_so_are_notes(caplog: pytest.LogCaptureFixture) -> None:
    error = CkptconvError("it is cut short")
    error.add_note("while the nightly job ran")
    error.at("a.pth").hint = "copy it again"
    try:
        raise error
    except CkptconvError:
        logging.getLogger("job").exception("failed")
    assert caplog.text.endswith(
        "CkptconvError: a.pth: it is cut short\nhint: copy it again\nwhile the nightly job ran\n"
    )


@pytest.mark.parametrize(
    "error",
    [*MADE, *(kind("it is so", path="a.pth", hint="do", details=["x"]) for kind in PLAIN)],
    ids=lambda error: type(error).__name__,
)
def test_every_error_comes_whole_out_of_another_process(error: CkptconvError) -> None:
    error.add_note("in worker 3")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)
    assert again.__notes__ == error.__notes__
