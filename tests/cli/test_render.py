"""The small things: numbers for people, escaping, tables, long metadata, the progress bar."""

from __future__ import annotations

import io
import sys
from collections import Counter, OrderedDict, defaultdict
from datetime import datetime, time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptconv.cli import layers, progress, render, render_metadata
from ckptconv.cli.output import printable
from ckptconv.core.metadata import NumpyArray, NumpyScalar, Opaque, TensorRef, TorchSize, TorchValue


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (68_904, "68.9 kB"), (999_499, "999 kB"), (999_500, "1.00 MB"),
        (9_996, "10.0 kB"), (99_960, "100 kB"), (4_294_967_296, "4.29 GB"), (10**24, "1000000 EB"),
    ],
)  # fmt: skip
def test_sizes_have_three_digits(nbytes: int, text: str) -> None:
    assert render.size(nbytes) == text


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.3.mlp.1.weight", ("model.layers.3", "mlp.1.weight")), ("a.fc.weight", ("a.fc", "weight")),
        ("0.weight", ("0", "weight")), ("weight", ("", "weight")), ("fc.0", ("fc", "0")),
        ("h1234567890.w", ("h1234567890", "w")), ("blocks.1234567890.a.w", ("blocks.1234567890.a", "w")),
    ],
)  # fmt: skip
def test_a_tensor_is_of_the_layer_behind_its_first_number_or_before_its_last_word(
    name: str, layer: tuple[str, str]
) -> None:
    assert layers.split_name(name) == layer


@given(st.text(st.characters()))
def test_printable_text_is_printable_and_plain_text_is_kept(text: str) -> None:
    assert printable(text).isprintable()
    if text.isprintable():
        assert printable(text) == text


def test_control_characters_are_spelled_like_repr() -> None:
    assert printable("a\x1b\n\t\x00\x9b\u202e\u2028\udc80\u200b ü漢") == (
        r"a\x1b\n\t\x00\x9b\u202e\u2028\udc80\u200b ü漢"
    )


def test_columns_are_aligned_to_what_a_terminal_shows() -> None:
    assert render.table([["漢字", "1"], ["abcd", "22"]], {1}) == ["漢字   1", "abcd  22"]


@pytest.mark.parametrize(
    ("node", "text"),
    [
        ((1,), "(1,)"),
        ([], "[]"),
        (set(), "set()"),
        (frozenset({1}), "frozenset({1})"),
        (OrderedDict(a=1), "OrderedDict({'a': 1})"),
        (Counter("aa"), "Counter({'a': 2})"),
        (defaultdict(list, {1: [2]}), "defaultdict(list, {1: [2]})"),
        (TorchSize((1, 2)), "torch.Size([1, 2])"),
        (TorchValue("dtype", "float32"), "torch.float32"),
        (NumpyScalar("<f4", b"\0\0\xc0\x3f"), "numpy.float32(1.5)"),
        (NumpyArray("<i2", (2,), b"\1\0\2\0"), "numpy.array(int16, shape [2]: 1, 2)"),
        (NumpyScalar("nonsense", b"12"), "<numpy nonsense, 2 bytes>"),
        ({"m": TensorRef("a"), "v": [TensorRef("b")]}, "<2 tensors>"),
        (TensorRef("a\n"), r"<tensor a\n>"),
        (Opaque("m.C", "named"), "<m.C>"),
        (Opaque("m.f", "called", (1, "x"), {"k": None}), "m.f(1, 'x', k=None)"),
        (Opaque("m.C", "object", state={"a": 1}), "<m.C with state {'a': 1}>"),
        (Opaque("m.C", "constructed", (1,), items=[2], pairs=[(3, 4)]), "m.C(1) with items [2] with {3: 4}"),
        (Opaque("m.C", "enclosing", ("a.b",)), "<the enclosing a.b>"),
        (Opaque("m.C", "enclosing", ("",)), "<the enclosing object>"),
        (Opaque("datetime.date", "constructed", (b"\x07\xcf\x0c\x1f",)), "datetime.date(1999, 12, 31)"),
        (Opaque("datetime.date", "constructed", (b"\x07",)), "datetime.date(b'\\x07')"),
        (
            Opaque("datetime.datetime", "constructed", (datetime(2026, 1, 2, 3, 4, 5, 678).__reduce__()[1][0], None)),
            "datetime.datetime(2026, 1, 2, 3, 4, 5, 678, None)",
        ),
        (
            Opaque("datetime.time", "constructed", tuple(time(23, 59, fold=1).__reduce_ex__(4)[1])),
            "datetime.time(23, 59, 0, 0)",
        ),
        (float("nan"), "nan"),
        (-0.0, "-0.0"),
        (True, "True"),
    ],
)
def test_metadata_is_spelled_with_its_type(node: object, text: str) -> None:
    assert render_metadata.spelled(node) == text


def test_a_huge_value_costs_no_more_than_what_is_shown() -> None:
    for node in ([0] * 10**6, "x" * 10**7, b"x" * 10**7, 1 << 10**6, dict.fromkeys(range(10**6))):
        assert len(render_metadata.spelled(node)) < 300_000
        assert len(render_metadata.shortened(render_metadata.spelled(node), node)) < 140


def test_long_containers_are_opened_and_say_how_much_is_left() -> None:
    lines = render_metadata.entries({"config": {f"key{i}": i for i in range(50)}, "widths": list(range(100))})
    assert lines[0] == "config  dict of 50 items"
    assert lines[1].split() == ["key0", "0"]
    assert "… and 30 more" in lines[21]
    assert lines[-1].endswith("… (100 items)")


def test_lists_are_opened_where_there_are_containers_in_them() -> None:
    lines = render_metadata.entries(
        {"groups": [{"lr": 0.1, "names": "x" * 80}, {"lr": 0.2}], "widths": list(range(40))}
    )
    assert lines[0] == "groups  list of 2 items"
    assert [line.split()[0] for line in lines] == ["groups", "0", "lr", "names", "1", "widths"]
    assert lines[-1].startswith("widths  [0, 1, 2")


def test_values_of_metadata_stand_in_a_column_beside_keys_as_long_as_a_ggufs() -> None:
    keys = ("general.name", "llama.attention.layer_norm_rms_epsilon")
    lines = render_metadata.entries(dict.fromkeys((*keys, "x" * 90), 1))
    assert [line.index(" 1") for line in lines] == [39, 39, 91]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_no_progress_bar_appears_off_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    monkeypatch.setattr(sys, "stderr", written := io.StringIO())
    with progress.Bar("reading") as bar:
        bar(1, 2)
    assert written.getvalue() == ""


def test_no_progress_bar_appears_for_quick_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", written := Terminal())
    with progress.Bar("reading") as bar:
        bar(1, 2)
    assert written.getvalue() == ""


def test_a_progress_bar_appears_for_slow_work_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", written := Terminal())
    with progress.Bar("reading [red]") as bar:
        bar(1, 2)
    assert "reading [red]" in written.getvalue()


def test_a_terminal_that_cannot_move_its_cursor_gets_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys, "stderr", written := Terminal())
    with progress.Bar("reading") as bar:
        bar(1, 2)
    assert written.getvalue() == ""
