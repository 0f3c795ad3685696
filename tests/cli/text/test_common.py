"""Numbers for people, and tables."""

from __future__ import annotations

import pytest

from ckptconv.cli.text.common import table
from ckptconv.core.text import size


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (68_904, "68.9 kB"), (999_499, "999 kB"), (999_500, "1.00 MB"),
        (9_996, "10.0 kB"), (99_960, "100 kB"), (4_294_967_296, "4.29 GB"), (10**24, "1000000 EB"),
    ],
)  # fmt: skip
def test_sizes_have_three_digits(nbytes: int, text: str) -> None:
    assert size(nbytes) == text


def test_columns_are_aligned_to_what_a_terminal_shows() -> None:
    assert table([["漢字", "1"], ["abcd", "22"]], {1}) == ["漢字   1", "abcd  22"]
