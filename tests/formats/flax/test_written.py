"""Flax's msgpack as it is written, with the msgpack package, which Flax uses, as the judge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import ckptconv
from ckptconv.core.arrays import to_bytes
from ckptconv.errors import DamagedTensorError
from ckptconv.formats.flax import packing
from tests.formats.flax.test_flax import OTHERS, PARAMS, TREES, TYPES, VALUES, WIDE, as_numpy, assert_same, written
from tests.support.flax_files import restore
from tests.support.nodes import load

if TYPE_CHECKING:
    from pathlib import Path

FIXTURES = OTHERS.parent
FLAXS = sorted(OTHERS.glob("*.msgpack"))


def again(path: Path, **how: Any) -> bytes:
    """The bytes of the file that is written of a file."""
    target = path.with_name("again.msgpack")
    ckptconv.convert(path, target, **how)
    return target.read_bytes()


@pytest.mark.parametrize("tree", [tree for tree, _, _ in TREES.values()], ids=TREES)
def test_a_tree_of_flax_is_written_byte_for_byte_as_flax_does(tree: Any, tmp_path: Path) -> None:
    path = written(tmp_path / "a.msgpack", tree)
    assert again(path) == path.read_bytes()


def test_values_and_element_types_of_flax_are_written_byte_for_byte_as_flax_does(tmp_path: Path) -> None:
    arrays = {name: WIDE.astype(dtype) for name, dtype in TYPES.items()}
    odd = {"none": np.zeros((0, 3)), "one": np.array(2.5), "nibbles": np.arange(7).astype(ml_dtypes.int4)}
    texts = {"text": np.array(["a", "bcd"]), "raw": np.array([b"a", b"bcd"]), "word": np.str_("权重")}
    path = written(tmp_path / "a.msgpack", {"params": {"arrays": arrays, "odd": odd}, **VALUES, **texts})
    assert again(path) == path.read_bytes()


@pytest.mark.parametrize("path", FLAXS, ids=lambda path: path.stem)
def test_the_files_that_flax_wrote_come_back_byte_for_byte(path: Path, tmp_path: Path) -> None:
    ckptconv.convert(path, tmp_path / "a.safetensors")
    assert again(tmp_path / "a.safetensors") == path.read_bytes()


@pytest.mark.parametrize("most", [4, 8, 47, 48])
def test_large_arrays_are_cut_where_flax_cuts_them(most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "MAX_CHUNK", most)
    arrays = {name: WIDE.astype(dtype) for name, dtype in TYPES.items()}
    path = written(tmp_path / "a.msgpack", {"params": {**arrays, "d": PARAMS, "in a list": [WIDE]}}, most)
    assert again(path) == path.read_bytes()


@pytest.mark.parametrize("name", ["digits-raw", "digits-metadata", "digits-training", "dtypes", "tied", "views"])
def test_a_pth_comes_back_from_flax_and_flax_reads_its_tensors(name: str, tmp_path: Path) -> None:
    ckptconv.convert(FIXTURES / f"{name}.pth", tmp_path / "a.msgpack")
    ckptconv.convert(tmp_path / "a.msgpack", tmp_path / "a.pth")
    assert ckptconv.diff(FIXTURES / f"{name}.pth", tmp_path / "a.pth").equal
    tree = restore((tmp_path / "a.msgpack").read_bytes())
    with ckptconv.open(FIXTURES / f"{name}.pth") as checkpoint:
        for own in checkpoint.keys() - checkpoint.tied_to.keys():
            tensor, node = checkpoint[own], tree
            for key in own.split("."):
                node = node[key]
            pairs = tensor.info.dtype.name in ("C32", "BC32")
            assert node.shape == ((*tensor.info.shape, 2) if pairs else tensor.info.shape)
            small = tensor.info.dtype.bits < 8
            assert (to_bytes(node, tensor.info.dtype) if small else node.tobytes()) == bytes(tensor.read())


def test_bare_weights_are_a_tree_of_arrays_and_no_more(tmp_path: Path) -> None:
    ckptconv.convert(FIXTURES / "digits-training.pth", tmp_path / "a.msgpack", bare=True)
    state = load(FIXTURES / "digits-raw.pth")
    tree = as_numpy(restore((tmp_path / "a.msgpack").read_bytes()))
    assert tree.keys() == {"hidden_layers", "output"}
    assert_same(tree["hidden_layers"]["1"]["weight"], state["hidden_layers.1.weight"].numpy())


def test_names_that_make_no_tree_keep_what_is_left_of_them_as_one_key(tmp_path: Path) -> None:
    marks = ["__msgpack_chunked_array__", "x.__msgpack_chunked_array__", "__msgpack_chunked_array__.y"]
    names = ["a", "a.b", "a.b.c", "a..d", ".", "", "ckptconv", "ckptconv.x", ".".join("n" * 200), *marks]
    save_file({name: np.full(2, i, np.float32) for i, name in enumerate(names)}, tmp_path / "a.safetensors")
    data = again(tmp_path / "a.safetensors")
    ckptconv.convert(tmp_path / "again.msgpack", tmp_path / "b.safetensors")
    assert ckptconv.diff(tmp_path / "a.safetensors", tmp_path / "b.safetensors").equal
    tree = restore(data)
    assert [tree[key][0] for key in ("a", "a.b", "a.b.c", "ckptconv.x")] == [0, 1, 2, 7]


def test_weights_that_would_be_read_as_an_optimizers_state_keep_the_record(tmp_path: Path) -> None:
    names = ["params.a.kernel", "opt_state.mu"]
    save_file({name: np.ones(2, np.float32) for name in names}, tmp_path / "a.safetensors")
    again(tmp_path / "a.safetensors", bare=True)
    with ckptconv.open(tmp_path / "again.msgpack") as checkpoint:
        assert sorted(checkpoint) == sorted(names)
        assert not checkpoint.extras


def test_what_others_put_into_a_file_of_ours_is_metadata(tmp_path: Path) -> None:
    ckptconv.convert(FIXTURES / "digits-metadata.pth", tmp_path / "a.msgpack")
    tree = restore((tmp_path / "a.msgpack").read_bytes())
    tree["output"] |= {"gain": np.ones(3, np.float32), "note": "mine"}
    with ckptconv.open(written(tmp_path / "b.msgpack", tree)) as checkpoint:
        assert checkpoint["output.gain"].info.shape == (3,)
        assert checkpoint.metadata["output.note"] == "mine"
        assert checkpoint.metadata["hidden_layers"] == [64, 32]


def test_an_array_alone_is_a_file_of_flax_as_well(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", WIDE)
    assert_same(restore(again(tmp_path / "a.npy")), WIDE)


def test_a_damaged_source_leaves_no_file(tmp_path: Path) -> None:
    data = bytearray((FIXTURES / "digits-raw.pth").read_bytes())
    first = torch.load(FIXTURES / "digits-raw.pth")["output.weight"].numpy().tobytes()
    data[data.index(first)] ^= 1
    (tmp_path / "a.pth").write_bytes(data)
    with pytest.raises(DamagedTensorError, match=r"output\.weight"):
        again(tmp_path / "a.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]
