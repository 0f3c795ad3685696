"""Adapters that are no LoRA: what their files contradict is told, and what they claim takes neither memory nor time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from ckptconv import Lora, inspect
from ckptconv.edits.adapters.kinds import KINDS, kind_of
from ckptconv.edits.adapters.matrices import HELD, RECENT
from ckptconv.edits.adapters.names import parts_of
from ckptconv.errors import CkptconvError, CorruptFileError, EditError, LimitError, UnsupportedError
from tests.edits.adapters.lora_cases import CASES, case, merged, part, write_adapter
from tests.support.stopwatch import within

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any


def error_of(name: str, folder: Path, changes: dict[str, Any], said: dict[str, object] | None = None) -> CkptconvError:
    """What is told of a case with some tensors changed, by the ends of their names, or without them."""
    base, path, _ = case(name, folder)
    tensors = part(f"{name}/adapter")
    for end, value in changes.items():
        key = next(key for key in tensors if key.endswith(end))
        old = tensors.pop(key)
        if value is not None:
            tensors[key] = value(old)
    config = CASES[name]["config"]
    (path / "adapter_config.json").unlink(missing_ok=True)
    write_adapter(path, tensors, config and config | (said or {}))
    inspect(path)  # tells it, and raises nothing
    with pytest.raises(CkptconvError) as caught:
        merged(base, path)
    assert not (folder / "out.safetensors").exists()
    return caught.value


def cut(tensor: torch.Tensor) -> torch.Tensor:
    return tensor[:-1].contiguous()


@pytest.mark.parametrize(
    ("name", "changes", "word"),
    [
        ("adalora", {"lora_E": cut}, "4 elements are due"),
        ("vera", {"vera_B": cut}, "the factors of"),
        ("vera", {"fc2.vera_lambda_b": cut}, "8 elements are due"),
        ("randlora", {"base_model.randlora_B": cut}, "the factors of"),
        ("delora", {"delora_lambda": lambda t: torch.ones(2)}, "not one"),
        ("delora", {"delora_w_norm": None}, "delora_w_norm is missing"),
        ("vblora", {"fc1.vblora_logits_A": lambda t: t[:2]}, "ranks 3 and 2"),
        ("vblora", {"fc1.vblora_logits_B": None}, "vblora_logits_B is missing"),
        ("gralora", {"fc1.gralora_B": lambda t: t[:1].contiguous()}, "factors are of shapes"),
        ("gralora", {"fc1.gralora_A": lambda t: torch.ones(2, 4, 0)}, "factors are of shapes [2, 4, 0]"),
        ("gralora-hybrid", {"fc1.gralora_B_general.weight": None}, "gralora_B_general is missing"),
        ("miss", {"fc2.miss_block": lambda t: torch.ones(5, 3)}, "the adapter's block of [5, 3]"),
        ("miss-bat", {"fc2.miss_block": cut}, "the adapter's blocks of [1, 4, 4]"),
        ("c3a", {"fc2.c3a_kernel": cut}, "the adapter's of [4, 12]"),
        ("shira", {"fc1.shira_indices": lambda t: t + 8}, "places are outside of a weight of shape [12, 8]"),
        ("shira", {"fc1.shira_indices": lambda t: t - 1}, "places are outside"),
        ("hira", {"fc1.hira_A": lambda t: torch.ones(3, 9)}, "the adapter's of [12, 9]"),
        ("oft", {"fc1.oft_R.weight": lambda t: torch.ones(2, 5)}, "oft_R of [2, 5]"),
        ("oft", {"fc1.oft_R.weight": lambda t: torch.ones(3, 6)}, "oft_R of [3, 6]"),
        ("boft", {"fc1.boft_R": lambda t: torch.ones(1, 3, 4, 4)}, "boft_R of [1, 3, 4, 4]"),
        ("boft", {"fc1.boft_s": None}, "boft_s is missing"),
        ("boft-butterfly", {"fc1.boft_R": lambda t: torch.ones(4, 4, 2, 2)}, "boft_R of [4, 4, 2, 2]"),
        ("hra", {"fc1.hra_u": cut}, "hra_u of [7, 4]"),
        ("road", {"fc1.road_alpha": cut}, "6 elements are due"),
        ("kohya-oft", {"fc1.oft_blocks": cut}, "oft_blocks of"),
        ("kohya-boft", {"fc2.oft_blocks": lambda t: torch.ones(5, 2, 4, 4)}, "oft_blocks of [5, 2, 4, 4]"),
        ("kohya-glora", {"fc1.a2.weight": lambda t: torch.ones(4, 9)}, "a1 and a2 of [8, 4] and [4, 9]"),
        ("kohya-ia3", {"fc1.weight": cut}, "11 numbers for its outputs"),
        ("kohya-ia3", {"fc1.on_input": lambda t: torch.ones(2)}, "not one"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_reported(name: str, changes: dict[str, Any], word: str, tmp_path: Path) -> None:
    error = error_of(name, tmp_path, changes)
    assert isinstance(error, EditError | CorruptFileError)
    assert word in str(error)


@pytest.mark.parametrize(
    ("name", "said", "word"),
    [
        ("vblora", {"topk": 13}, "13 for topk, of 12"), ("vblora", {"topk": "many"}, "'many' for topk"),
        ("road", {"group_size": 5}, "groups of 5"), ("road", {"variant": "road_3"}, "'road_3'"),
        ("oft", {"num_cayley_neumann_terms": 10**8}, "100,000,000 terms"), ("oft-shared", {"eps": "wide"}, "eps is no"),
        ("adalora", {"init_r": -1}, "-1 for init_r"), ("loha", {"r": 9}, "says 9 for the rank of"),
        ("lora-patterns", {"rank_pattern": {".*": 7}}, "says 7 for the rank of"),
    ],
)  # fmt: skip
def test_a_setting_of_no_sense_is_reported(name: str, said: dict[str, object], word: str, tmp_path: Path) -> None:
    assert word in str(error_of(name, tmp_path, {}, said))


@pytest.mark.parametrize("name", ["vera", "vblora"])
def test_what_all_modules_share_has_to_be_in_the_file(name: str, tmp_path: Path) -> None:
    missing = KINDS[{"vera": "vera_lambda_b", "vblora": "vblora_logits_A"}[name]].shared[0]
    error = error_of(name, tmp_path, {missing: None})
    assert isinstance(error, UnsupportedError)
    assert f"{missing}, which all modules share, is not in the file" in str(error)


def test_a_series_of_before_peft_0_18_is_refused(tmp_path: Path) -> None:
    error = error_of("oft", tmp_path, {}, {"peft_version": "0.17.1"})
    assert isinstance(error, UnsupportedError)
    assert "before peft 0.18" in str(error)


@pytest.mark.parametrize("name", ["oft", "boft", "hra", "road", "kohya-oft", "miss-bat"])
def test_what_multiplies_takes_no_scale(name: str, tmp_path: Path) -> None:
    base, adapter, _ = case(name, tmp_path)
    with pytest.raises(EditError, match="no scale"):
        merged(base, Lora(adapter, 0.5))


@pytest.mark.parametrize("name", ["adalora", "vera", "shira", "hira", "kohya-ia3"])
def test_what_is_added_takes_one(name: str, tmp_path: Path) -> None:
    base, adapter, expected = case(name, tmp_path, torch.float64)
    before, half = part("Blocks/base"), merged(base, Lora(adapter, 0.5))
    for key, exact in expected.items():
        torch.testing.assert_close(half[key], (before[key].double() + exact) / 2, rtol=1e-12, atol=1e-15)


def test_a_turned_weight_is_not_taken_for_a_plain_one(tmp_path: Path) -> None:
    error = error_of("oft", tmp_path, {}, {"fan_in_fan_out": True})
    assert "inputs × outputs (fan_in_fan_out)" in str(error)


@pytest.mark.parametrize("name", ["vera", "shira", "oft", "kohya-boft"])
def test_every_cut_of_one_is_an_error_of_ours(name: str, tmp_path: Path) -> None:
    base, adapter, _ = case(name, tmp_path)
    path = adapter / "adapter_model.safetensors"
    data = path.read_bytes()
    for length in range(0, len(data), 211):
        path.write_bytes(data[:length])
        with pytest.raises(CkptconvError):
            merged(base, adapter)


@pytest.mark.parametrize(
    ("kind", "width", "tensors", "said"),
    [
        ("HRA", 1 << 13, {"hra_u": (1 << 13, 4000)}, {}),
        ("HRA", 1 << 30, {"hra_u": (1 << 30, 1)}, {}),
        ("OFT", 5000, {"oft_R.weight": (1, 5000 * 4999 // 2)}, {}),
        ("BOFT", 1 << 14, {"boft_R": (1, 1, 1 << 14, 1 << 14), "boft_s": (2, 1)}, {}),
        ("VERA", 1 << 20, {"vera_lambda_b": (2,), "vera_lambda_d": (1 << 10,)}, {}),
        ("SHIRA", 1 << 30, {"shira_weight": (1 << 30,), "shira_indices": (2, 1 << 30)}, {}),
        ("C3A", 1 << 30, {"c3a_kernel": (1, 1 << 29, 2)}, {}),
    ],
)  # fmt: skip
def test_views_of_one_number_take_neither_memory_nor_time(
    kind: str, width: int, tensors: dict[str, tuple[int, ...]], said: dict[str, object], tmp_path: Path
) -> None:
    """As torch saves them, they claim any shape in a file of a kilobyte."""
    one = torch.zeros(1)
    torch.save({"a.weight": one.expand(2, width)}, tmp_path / "base.pth")
    adapter = {f"base_model.model.a.{name}": one.expand(shape) for name, shape in tensors.items()}
    if kind == "VERA":
        adapter |= {"base_model.vera_A": one.expand(1 << 10, width), "base_model.vera_B": one.expand(2, 1 << 10)}
    path = write_adapter(tmp_path / "a", {}, {"peft_type": kind, "peft_version": "0.21.0"} | said)
    (path / "adapter_model.safetensors").unlink()
    torch.save(adapter, path / "adapter_model.bin")

    def refused() -> None:
        with pytest.raises(LimitError):
            merged(tmp_path / "base.pth", path)

    within(2, refused)


def test_an_array_that_is_large_is_made_once_for_a_weight() -> None:
    import numpy as np

    owner, made = object(), []

    def make() -> Any:
        made.append(1)
        return np.zeros(HELD // 8 + 1)

    RECENT.start_reading(owner)
    for number in range(40):
        RECENT.get(owner, -1, make)
        RECENT.get(owner, number, lambda: np.zeros(HELD // 64))
    RECENT.start_reading(None)
    assert len(made) == 1


def test_a_row_of_zeros_that_would_be_normalized_is_reported(tmp_path: Path) -> None:
    error = error_of("hra", tmp_path, {"fc1.hra_u": torch.zeros_like})
    assert "--allow-loss overflow" in str(error.hint)


def test_every_kind_has_a_case() -> None:
    """But mlx-lm's, which has tests of its own, and a bias alone."""
    seen = {kind_of(parts) for name in CASES for parts in parts_of(part(f"{name}/adapter")).modules.values()}
    assert {kind.marks for kind in KINDS.values() if not seen & set(kind.marks)} == {("lora_a",), ("diff_bias",)}
