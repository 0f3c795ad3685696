"""The fixtures are what their manifest says, and a trained network is as good from every format.

Torch and the safetensors package read what we wrote, and wrote what we read.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, load_model

import ckptconv
from fixtures.make import train
from fixtures.network import Network, TiedLanguageModel, accuracy, digits

if TYPE_CHECKING:
    from collections.abc import Mapping

FIXTURES = Path(__file__).parent.parent / "fixtures"
DIGITS = ["digits-raw.pth", "digits-metadata.pth", "digits.safetensors", "digits-training.pth"]
PTH = sorted(path.name for path in FIXTURES.glob("*.pth"))
CHECKPOINTS = sorted(path.name for path in FIXTURES.iterdir() if path.suffix in {".pth", ".safetensors"})
MANIFEST_ROW = re.compile(r"^\| `([^`]+)` \| [^|]+ \| (\d+) \| `([0-9a-f]{64})` \|$", re.MULTILINE)


def test_the_manifest_lists_every_fixture_with_its_size_and_hash() -> None:
    rows = MANIFEST_ROW.findall((FIXTURES / "MANIFEST.md").read_text())
    found = {
        name: ((FIXTURES / name).stat().st_size, hashlib.sha256((FIXTURES / name).read_bytes()).hexdigest())
        for name in CHECKPOINTS
    }
    assert {name: (int(size), sha256) for name, size, sha256 in rows} == found


@pytest.mark.parametrize("folder", ["others", "diffusers", "lora", "mlx", "quantized"])
def test_the_manifest_of_other_libraries_lists_their_files(folder: str) -> None:
    others = FIXTURES / folder
    rows = MANIFEST_ROW.findall((others / "MANIFEST.md").read_text())
    found = {
        path.name: (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in others.iterdir()
        if path.name != "MANIFEST.md" and path.suffix != ".py" and path.is_file()
    }
    assert {name: (int(size), sha256) for name, size, sha256 in rows} == found


@pytest.mark.parametrize(
    "framework",
    [
        "ctranslate2",
        "deepspeed",
        "dill",
        "equinox",
        "flax-scanned",
        "gensim",
        "ggml",
        "joblib",
        "keras-quantized",
        "keras-sharded",
        "megatron",
        "orbax",
        "runtimes",
        "skops",
        "skorch",
        "stable-baselines3",
        "tensordict",
        "tfjs",
        "torch-hf-slices",
    ],
)
def test_the_manifest_of_a_frameworks_folder_lists_its_files(framework: str) -> None:
    folder = FIXTURES / "others" / framework
    rows = MANIFEST_ROW.findall((folder / "MANIFEST.md").read_text())
    found = {
        path.relative_to(folder).as_posix(): (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".md", ".py", ".pyc")
    }
    assert {name: (int(size), sha256) for name, size, sha256 in rows} == found


def test_the_fixtures_are_small() -> None:
    assert sum((FIXTURES / name).stat().st_size for name in CHECKPOINTS) < 3_000_000


def test_training_twice_gives_the_same_weights() -> None:
    threads = torch.get_num_threads()
    try:
        images, _ = digits()
        first, second = (train(images).network.state_dict() for _ in range(2))
    finally:
        torch.set_num_threads(threads)
    assert same(first, second)


@pytest.mark.parametrize("name", PTH)
def test_torch_loads_every_fixture_with_weights_only(name: str) -> None:
    assert load_pth(FIXTURES / name)


@pytest.mark.parametrize("name", DIGITS)
def test_the_digits_network_is_as_accurate_from_every_format(name: str) -> None:
    assert digits_accuracy(weights(FIXTURES / name)) == digits_accuracy(load_pth(FIXTURES / "digits-raw.pth")) >= 0.95


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("name", DIGITS)
def test_the_digits_network_is_as_accurate_after_a_conversion(name: str, suffix: str, tmp_path: Path) -> None:
    target = tmp_path / f"converted{suffix}"
    ckptconv.convert(FIXTURES / name, target, bare=True)
    assert same_weights(weights(target), weights(FIXTURES / "digits-raw.pth"))
    assert digits_accuracy(weights(target)) == digits_accuracy(weights(FIXTURES / name))


@pytest.mark.parametrize("name", DIGITS)
def test_an_opened_checkpoint_loads_straight_into_the_network(name: str) -> None:
    with ckptconv.open(FIXTURES / name) as checkpoint:
        state = {key: tensor.to_torch() for key, tensor in checkpoint.items()}
    assert digits_accuracy(state) == digits_accuracy(weights(FIXTURES / "digits-raw.pth"))


@pytest.mark.parametrize("name", ["digits-raw.pth", "digits-metadata.pth"])
def test_the_safetensors_package_loads_a_converted_network_with_no_extra_step(name: str, tmp_path: Path) -> None:
    target = tmp_path / "digits.safetensors"
    ckptconv.convert(FIXTURES / name, target)
    assert digits_accuracy(load_file(target)) >= 0.95


@pytest.mark.parametrize("name", PTH)
def test_a_round_trip_through_safetensors_gives_back_an_equal_object(name: str, tmp_path: Path) -> None:
    between, target = tmp_path / "between.safetensors", tmp_path / name
    ckptconv.convert(FIXTURES / name, between)
    ckptconv.convert(between, target)
    assert same(load_pth(target), load_pth(FIXTURES / name))


@pytest.mark.parametrize("name", ["digits.safetensors", "dtypes.safetensors"])
def test_a_round_trip_through_pth_gives_back_every_tensor(name: str, tmp_path: Path) -> None:
    between, target = tmp_path / "between.pth", tmp_path / name
    ckptconv.convert(FIXTURES / name, between)
    ckptconv.convert(between, target)
    assert same_weights(load_file(target), load_file(FIXTURES / name))


def test_tied_names_share_one_storage_again_after_a_round_trip(tmp_path: Path) -> None:
    between, target = tmp_path / "tied.safetensors", tmp_path / "tied.pth"
    ckptconv.convert(FIXTURES / "tied.pth", between)
    ckptconv.convert(between, target)
    for path in (FIXTURES / "tied.pth", target):
        state = load_pth(path)
        assert state["embed.weight"].data_ptr() == state["head.weight"].data_ptr()


def test_the_safetensors_package_loads_a_converted_tied_model(tmp_path: Path) -> None:
    target = tmp_path / "tied.safetensors"
    ckptconv.convert(FIXTURES / "tied.pth", target)
    model = TiedLanguageModel()
    missing, unexpected = load_model(model, target)
    assert not missing
    assert not unexpected
    assert same_weights(model.state_dict(), load_pth(FIXTURES / "tied.pth"))


def test_every_dtype_keeps_its_name_and_its_bytes_when_opened() -> None:
    state = load_pth(FIXTURES / "dtypes.pth")
    with ckptconv.open(FIXTURES / "dtypes.pth") as checkpoint:
        for name, tensor in checkpoint.items():
            assert str(tensor.info.dtype) == name or name.startswith(("scalar", "empty"))
            assert bytes(tensor.read()) == image(state[name])


@pytest.mark.parametrize("name", list(load_file(FIXTURES / "dtypes.safetensors")))
def test_the_safetensors_package_wrote_the_bytes_that_torch_wrote(name: str) -> None:
    tensor = load_file(FIXTURES / "dtypes.safetensors")[name]
    assert same(tensor, load_pth(FIXTURES / "dtypes.pth")[name])


def test_every_view_reads_as_its_values_in_c_order() -> None:
    state = load_pth(FIXTURES / "views.pth")
    with ckptconv.open(FIXTURES / "views.pth") as checkpoint:
        assert list(checkpoint) == list(state)
        for name, tensor in checkpoint.items():
            assert bytes(tensor.read()) == image(state[name]), name


def load_pth(path: Path) -> dict[str, torch.Tensor]:
    """What torch finds in a .pth; the values are not tensors where the file is more than a state_dict."""
    content = torch.load(path, weights_only=True)
    assert isinstance(content, dict)
    return content


def weights(path: Path) -> Mapping[str, torch.Tensor]:
    """The state_dict of a digits fixture, read by torch or by the safetensors package."""
    if path.suffix == ".safetensors":
        return load_file(path)
    content = load_pth(path)
    state: Mapping[str, torch.Tensor] = next(
        (content[key] for key in ("state_dict", "model_state_dict") if key in content),  # type: ignore[misc]
        content,
    )
    return state


def digits_accuracy(state: Mapping[str, torch.Tensor]) -> float:
    network = Network(input_size=64, output_size=10, hidden_layers=[64, 32])
    network.load_state_dict(state, strict=True)
    return accuracy(network, digits()[1])


def image(tensor: torch.Tensor) -> bytes:
    """The tensor's elements in C order; little-endian, as every machine is on which we test."""
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().tobytes()


def same_weights(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> bool:
    return same(dict(sorted(ours.items())), dict(sorted(theirs.items())))


def same(ours: object, theirs: object) -> bool:
    """Equal in value and in type, all the way down; tensors by their bits, dicts by their order too."""
    if type(ours) is not type(theirs):
        return False
    if isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        header = (ours.dtype, ours.shape, ours.requires_grad) == (theirs.dtype, theirs.shape, theirs.requires_grad)
        return header and image(ours) == image(theirs)
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return same(list(ours), list(theirs)) and same(list(ours.values()), list(theirs.values()))
    if isinstance(ours, (list, tuple)) and isinstance(theirs, (list, tuple)):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return ours == theirs
