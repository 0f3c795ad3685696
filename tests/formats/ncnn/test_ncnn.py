"""Networks of ncnn's: what pnnx made of torch's weights, and what ncnn itself reads, is what is read here."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from struct import pack

import ml_dtypes
import numpy as np
import pytest

import ckptconv
from ckptconv.errors import CorruptFileError, FileAccessError, UnknownFormatError, UnsupportedError
from ckptconv.io.folder import Folder
from tests.support.reads import expect_any_range, expect_no_cut_to_open

RUNTIMES = Path(__file__).parents[3] / "fixtures" / "others" / "runtimes"
FORMS = RUNTIMES / "ncnn-forms.param"
NET = {
    "convrelu_0": "conv", "bn_5": "bn", "convdw_20": "convdw", "prelu_14": "prelu", "deconv_9": "deconv",
    "deconvdw_22": "deconvdw", "gn_10": "gn", "in_11": "inorm", "ln_12": "ln", "gemm_0": "gemm", "rmsn_15": "rms",
    "conv1d_6": "conv1d", "convdw1d_19": "convdw1d", "deconv1d_8": "deconv1d", "deconvdw1d_21": "deconvdw1d",
    "linear_13": "fc",
}  # fmt: skip
"""The modules of torch's by the names that pnnx gave to the layers."""
VOLUMES = {"conv3d_0": "conv3d", "convdw3d_2": "convdw3d", "deconv3d_1": "deconv3d", "deconvdw3d_3": "deconvdw3d"}
SEQUENCE = {"embed_0": "embed", "lstm_2": "lstm", "gru_1": "gru", "rnn_5": "rnn", "lstm_3": "projected", "p": "p",
            "attention_4": "attention"}  # fmt: skip


def of_torch(name: str) -> dict[str, np.ndarray]:
    """The state_dict of a network, or what ncnn reads of it."""
    with np.load(RUNTIMES / "ncnn.npz") as arrays:
        start = f"ncnn-{name}|"
        return {key.removeprefix(start): arrays[key] for key in arrays.files if key.startswith(start)}


def summed(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The state_dict with the biases of recurrent layers as ncnn has them, and attention in its parts."""
    found = dict(state)
    for name in [name for name in state if ".bias_ih" in name]:
        one, other = found.pop(name), found.pop(name.replace("_ih", "_hh"))
        size = len(one) // 3
        both = [one[: 2 * size] + other[: 2 * size], one[2 * size :], other[2 * size :]]
        found[name.replace("_ih", "")] = np.concatenate(both) if name.startswith("gru.") else one + other
    for role in ("weight", "bias"):
        if whole := [name for name in found if name.endswith(f"in_proj_{role}")]:
            for part, values in zip("qkv", np.split(found.pop(whole[0]), 3), strict=True):
                found[f"attention.{part}_proj.{role}"] = values
    return {name: values for name, values in found.items() if not name.endswith("num_batches_tracked")}


@pytest.mark.parametrize(("name", "modules"), [("net", NET), ("volumes", VOLUMES), ("sequence", SEQUENCE)])
def test_every_tensor_is_what_torch_had_before_pnnx_converted_it(name: str, modules: dict[str, str]) -> None:
    expected = summed(of_torch(name))
    with ckptconv.open(RUNTIMES / f"ncnn-{name}.param") as checkpoint:
        assert isinstance(checkpoint.file, Folder)
        assert checkpoint.file.open(f"ncnn-{name}.bin").bytes_read < 100  # flags
        found = {}
        for key, tensor in checkpoint.items():
            layer, _, role = key.partition(".")
            found[f"{modules[layer]}.{role}".rstrip(".")] = tensor
            expect_any_range(tensor, bytes(tensor.read()), 8)
        assert {*found} == {*expected}
        for key, tensor in found.items():
            values = expected[key].astype("f2" if tensor.info.dtype.name == "F16" else "f4")
            assert tensor.info.shape == values.shape, key
            assert bytes(tensor.read()) == values.tobytes(), key
    assert any(tensor.info.dtype.name == "F16" for tensor in found.values()) == (name == "sequence")


def test_layers_and_encodings_that_pnnx_does_not_write_are_what_ncnn_reads() -> None:
    expected = of_torch("forms")
    with ckptconv.open(FORMS) as checkpoint:
        for name in ("raw", "scaled", "half", "brain", "table", "end"):  # the last: all before it have ncnn's sizes
            values = checkpoint[name].numpy()
            assert np.array_equal(values.astype("f4"), expected[name]), name
        assert checkpoint["brain"].numpy().dtype == ml_dtypes.bfloat16
        expect_any_range(checkpoint["table"], expected["table"].tobytes())
        weight, bias = (checkpoint[f"w.{role}"].numpy().astype("f4") for role in ("weight", "bias"))
        assert np.allclose(weight + bias[:, None], expected["w computes"], rtol=1e-6)
        assert checkpoint["n.weight"].info.shape == (3, 4)  # stored as inputs × outputs
        assert checkpoint["p.weight_ih_l0_reverse"].info.shape == (8, 3)


def test_8_bit_weights_are_dequantized_to_what_ncnn_computes_with_them(tmp_path: Path) -> None:
    ckptconv.convert(FORMS, tmp_path / "x.npz", edits=ckptconv.Edits(dequantize=True), bare=True)
    with np.load(tmp_path / "x.npz") as found, ckptconv.open(FORMS) as checkpoint:
        given = checkpoint["x.input_inverse_scale"].numpy()[0]  # a one becomes an integer too
        expected = of_torch("forms")["x computes"] * given / np.round(given)
        assert np.allclose(found["x.weight"], expected, rtol=1e-5)
        rows = checkpoint["k.weight"].numpy() / checkpoint["k.weight_inverse_scale"].numpy()[:, None, None, None]
        assert np.allclose(found["k.weight"], rows, rtol=1e-6)
        assert "x.weight_inverse_scale" not in found


def network(folder: Path, layers: str, data: bytes, name: str = "x") -> Path:
    """A network of these layers, after an input called a."""
    lines = ["Input a 0 1 a", *layers.splitlines()]
    (folder / f"{name}.param").write_text(f"7767517\n{len(lines)} {len(lines)}\n" + "\n".join(lines) + "\n")
    (folder / f"{name}.bin").write_bytes(data)
    return folder / f"{name}.param"


def test_a_folder_an_archive_and_the_weights_lead_to_the_graph(tmp_path: Path) -> None:
    folder = tmp_path / "yolo_ncnn_model"
    folder.mkdir()
    for suffix in ("param", "bin"):
        shutil.copy(RUNTIMES / f"ncnn-net.{suffix}", folder / f"model.ncnn.{suffix}")
    (folder / "model.pnnx.param").write_text("7767517\n1 1\npnnx.Input in 0 1 0\n")
    (folder / "model.pnnx.bin").write_bytes(b"PK")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        for suffix in ("param", "bin"):
            file.write(folder / f"model.ncnn.{suffix}", f"m/model.ncnn.{suffix}")
    for path in (folder, folder / "model.ncnn.param", tmp_path / "x.zip"):
        assert ckptconv.diff(path, RUNTIMES / "ncnn-net.param", bare=True).equal
    with pytest.raises(UnknownFormatError) as error:
        ckptconv.open(folder / "model.ncnn.bin")
    assert "model.ncnn.param" in (error.value.hint or "")
    with pytest.raises(UnsupportedError, match="pnnx's own"):
        ckptconv.open(folder / "model.pnnx.param")
    (folder / "model.ncnn.bin").unlink()
    with pytest.raises(FileAccessError):
        ckptconv.open(folder / "model.ncnn.param")


def test_a_layer_of_an_application_passes_if_the_others_fill_the_file(tmp_path: Path) -> None:
    layers = "rife.Warp w 1 1 a b axis=(1,2) 0=3\nBias c 1 1 b c 0=2"
    with ckptconv.open(network(tmp_path, layers, pack("<2f", 1, 2))) as checkpoint:
        assert checkpoint["c.bias"].numpy().tolist() == [1, 2]
    with pytest.raises(UnsupportedError, match=r"rife\.Warp"):
        ckptconv.open(network(tmp_path, layers, pack("<3f", 1, 2, 3)))


@pytest.mark.parametrize(("layers", "size", "message"), [
    ("Bias c 1 1 a c 0=2", 4, "within layer 'c'"),
    ("Bias c 1 1 a c 0=2", 12, "4 bytes follow"),
    ("InnerProduct c 1 1 a c 0=2 2=4", 3, "within layer 'c'"),
    ("Bias c 1 1 a c 0=-2", 8, "option 0 is -2"),
    ("Bias c 1 1 a c 0=2.5", 8, "no whole number"),
    ("Bias c 1 1 a c 0=99999999999", 8, "no whole number"),
    ("Bias c 1 1 a c zero=2", 8, "no option"),
    ("Bias c 1 9 a c", 8, "fewer inputs and outputs"),
    ("Bias c", 8, "no layer"),
    ("InnerProduct c 1 1 a c 0=2 2=5", 64, "no multiple"),
    ("DeconvolutionDepthWise c 1 1 a c 0=3 1=1 6=6 7=2", 64, "2 groups of 3"),
    ("ConvolutionDepthWise c 1 1 a c 0=2 1=1 6=2 7=2 8=3", 64, "option 8 is 3"),
    ("Gemm c 1 1 a c 3=1 5=1 8=2", 64, "2 numbers"),
    ("Gemm c 1 1 a c 6=1 10=7", 64, "no known shape"),
    ("GRU c 1 1 a c 0=2 1=6 2=3", 64, "option 2 is 3"),
    ("MemoryData c 0 1 c 0=2 2=1", 64, "shape"),
    ("MemoryData c 0 1 c 0=2 21=2", 64, "form 2"),
    ("Gemm c 1 1 a c 3=1 5=1 8=2 9=32 18=400", 64, "in blocks"),
])  # fmt: skip
def test_what_contradicts_itself_or_is_not_known_is_refused(
    layers: str, size: int, message: str, tmp_path: Path
) -> None:
    with pytest.raises((CorruptFileError, UnsupportedError), match=message):
        ckptconv.open(network(tmp_path, layers, bytes(size)))


def test_a_graph_that_is_cut_before_its_last_line_is_refused(tmp_path: Path) -> None:
    whole = (RUNTIMES / "ncnn-volumes.param").read_bytes()
    shutil.copy(RUNTIMES / "ncnn-volumes.bin", tmp_path / "x.bin")
    expect_no_cut_to_open(tmp_path / "x.param", whole[: whole.rindex(b"\n", 0, -1)])


def test_lines_after_the_last_layer_are_ignored_as_ncnn_does(tmp_path: Path) -> None:
    path = network(tmp_path, "Bias c 1 1 a c 0=1", pack("<f", 1))
    path.write_text(f"{path.read_text()}Bias d 1 1 c d 0=7\n")
    with ckptconv.open(path) as checkpoint:
        assert [*checkpoint] == ["c.bias"]


def test_names_that_occur_twice_get_a_number(tmp_path: Path) -> None:
    path = network(tmp_path, "Bias c 1 1 a c 0=1\nBias c 1 1 c d 0=1", pack("<2f", 1, 2))
    with ckptconv.open(path) as checkpoint:
        assert {name: tensor.numpy().tolist() for name, tensor in checkpoint.items()} == {
            "c.bias": [1], "c.bias#2": [2]
        }  # fmt: skip
