"""Which layer a tensor belongs to, by its name."""

from __future__ import annotations

import pytest

from ckptconv.cli.text.layers import split_name


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
    assert split_name(name) == layer
