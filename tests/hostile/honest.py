"""Small honest files of every container that others write, for the fuzzer to start from."""

from __future__ import annotations

import io
import json
import pickle
import tempfile
import warnings
import zipfile
from pathlib import Path
from struct import pack
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import torch

from ckptconv.formats.flax.orbax.ocdbt import Ocdbt
from ckptconv.formats.tensorflow.table import entries
from ckptconv.io.folder import Folder
from ckptconv.io.source import Source
from tests.support.archive_files import mar, nemo, nemo_folder, saved_bytes, tarred, zipped
from tests.support.craft import records_of
from tests.support.flax_files import to_bytes
from tests.support.ggml_files import ONE_TWO, llama, tensor, tokens
from tests.support.orbax_files import BETWEEN, leaf, unpack
from tests.support.protobuf_files import field
from tests.support.quantized_onnx import quantized_onnx
from tests.support.tar_files import tar_saved
from tests.support.tensorflow_files import rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SHARED = torch.arange(6.0)

RANKS = Path(__file__).parents[2] / "fixtures" / "others" / "deepspeed" / "stage-2" / "global_step3"
"""A folder of DeepSpeed's, of three ranks."""

SLICES = Path(__file__).parents[2] / "fixtures" / "others" / "megatron" / "gated-2x1" / "ranks" / "iter_0000007"
"""A folder of Megatron's, of two ranks."""

PROCESSES = Path(__file__).parents[2] / "fixtures" / "others" / "torch-hf-slices" / "mixed"
"""A folder of torch's HuggingFaceStorageWriter, of three processes."""

MAPPED = Path(__file__).parents[2] / "fixtures" / "others" / "tensordict" / "memmap"
"""A folder of tensordict's."""

NETS = Path(__file__).parents[2] / "fixtures" / "others" / "skorch"
"""Nets of skorch's, whose pickle has a pickle in it."""

TFJS = Path(__file__).parents[2] / "fixtures" / "others" / "tfjs"
RUNTIMES = Path(__file__).parents[2] / "fixtures" / "others" / "runtimes"
"""Files of other runtimes."""

PACKAGE = RUNTIMES / "coreml-packed.mlpackage" / "Data" / "com.apple.CoreML"
"""A model of Core ML's, and its weights."""

INFERENCE = RUNTIMES / "paddle-net.pdiparams"

SKOPS = Path(__file__).parents[2] / "fixtures" / "others" / "skops"
AGENTS = Path(__file__).parents[2] / "fixtures" / "others" / "stable-baselines3"


def state() -> dict[str, torch.Tensor]:
    return {"a.weight": SHARED.reshape(2, 3), "tied": SHARED, "part": SHARED[1:4], "n": torch.tensor(3)}


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = torch.nn.Linear(2, 3)
        self.register_buffer("steps", torch.tensor(3))
        self.plain = torch.ones(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.line(x).sum() + self.steps + self.plain.sum()


def legacy(folder: Path) -> list[bytes]:
    buffers = [io.BytesIO(), io.BytesIO()]
    for buffer, value in zip(buffers, (state(), {"epoch": 3, "state_dict": state()}), strict=True):
        torch.save(value, buffer, _use_new_zipfile_serialization=False)
    return [buffer.getvalue() for buffer in buffers]


def tar(folder: Path) -> list[bytes]:
    return [tar_saved(folder / "x.tar", state(), views=views).read_bytes() for views in (False, True)]


def script(folder: Path) -> list[bytes]:
    torch.jit.save(torch.jit.script(Net()), folder / "x.pt")
    return [(folder / "x.pt").read_bytes()]


def export(folder: Path) -> list[bytes]:
    torch.export.save(torch.export.export(Net(), (torch.ones(1, 2),)), folder / "x.pt2")
    return [(folder / "x.pt2").read_bytes()]


def gguf(folder: Path) -> list[bytes]:
    from gguf import GGMLQuantizationType, GGUFWriter

    writer = GGUFWriter(folder / "x.gguf", "llama")
    writer.add_uint32("a.u32", 1 << 31)
    writer.add_array("a.tokens", ["<s>", "b"])
    writer.add_array("a.scores", [0.5, -1.0])
    writer.add_tensor("w", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.add_tensor("q", np.zeros((2, 34), np.uint8), raw_dtype=GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return [(folder / "x.gguf").read_bytes()]


def npz(folder: Path) -> list[bytes]:
    arrays: dict[str, Any] = {
        "a": np.arange(6.0).reshape(2, 3).T,
        "b": np.ones(3, ">i2"),
        "c": np.float32(2),
        "d": np.ones(2, "V2"),
    }
    buffers = [io.BytesIO(), io.BytesIO()]
    np.savez(buffers[0], **arrays)
    np.savez_compressed(buffers[1], **arrays)
    return [buffer.getvalue() for buffer in buffers]


NUMBERS = [np.arange(6.0).reshape(2, 3).T, np.ones(3, ">i2"), np.float32(2), np.ones(2, "V2"), np.zeros((0, 2), bool)]


def behind_each_other(arrays: Iterable[Any], before: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    buffer.write(before)
    for array in arrays:
        np.save(buffer, array)
    return buffer.getvalue()


def npy(folder: Path) -> list[bytes]:
    return [behind_each_other([array]) for array in NUMBERS]


def equinox(folder: Path) -> list[bytes]:
    texts = (b"", b'{"width": 3, "depth": [1, 2]}\n', b"3\n")
    return [behind_each_other(NUMBERS, before) for before in texts]


def flax(folder: Path) -> list[bytes]:
    layer = {"kernel": np.arange(60, dtype=np.float32).reshape(3, 20), "half": np.ones(5, ml_dtypes.bfloat16)}
    small = {"four": np.arange(5).astype(ml_dtypes.int4), "names": np.array(["x", "yy"]), "n": np.float32(2)}
    state = {"step": 3, "params": {"a": layer, "b": layer}, "opt_state": {"0": {}, "1": {"mu": layer}}, "rate": 0.5}
    trees = [state, {**layer, **small, "c": 2j, "l": [1, None]}, {"params": layer, "batch_stats": layer}]
    return [to_bytes(tree, chunk) for tree in trees for chunk in (1 << 30, 100)]


def tensorflow(folder: Path) -> list[bytes]:
    """The entries of TensorFlow's own indices, which the fuzzer puts into a table again, before data of zeros: with their
    texts, of which zeros are none, and without.
    """
    found = []
    for path in sorted((Path(__file__).parents[2] / "fixtures" / "others").glob("*.index")):
        with Source(path) as source:
            whole = dict(entries(source))
        found += [rows(whole), rows({key: value for key, value in whole.items() if value[:2] != b"\x08\x07"})]
    return found


def orbax(folder: Path) -> list[bytes]:
    """The lists of trees that Orbax wrote, each with a node that has all of its keys and values."""
    found = []
    unpack("0.12.8", folder)
    for name in ("plain", "rich", "train", "types", "keys", "sharded", "sharded-zarr3", "raw-zarr3", "stores"):
        with Folder(folder / name) as whole:
            store = Ocdbt(whole)
            spans = {key: store.find(key) for key in store.names()}
            values = {key: bytes(span.file.read_at(span.offset, span.length)) for key, span in spans.items() if span}
        listed = folder / name / "_METADATA"
        found.append((listed.read_bytes() if listed.exists() else b"") + BETWEEN + leaf(values))
    return found


def tflite(folder: Path) -> list[bytes]:
    """Models that its converter made, where they are small."""
    found = sorted((Path(__file__).parents[2] / "fixtures" / "others").glob("tflite-*.tflite"))
    return [data for data in (path.read_bytes() for path in found) if len(data) < 6 << 10]


def openvino(folder: Path) -> list[bytes]:
    """Documents of its models, where they are small."""
    whole = [path.read_bytes() for path in sorted(RUNTIMES.glob("openvino-*.xml"))]
    return [data for data in whole if len(data) < 17 << 10]


def tfjs(folder: Path) -> list[bytes]:
    """Documents of a layers model, of a manifest alone, and of a graph."""
    layers, types = (TFJS / "layers.json").read_bytes(), (TFJS / "types-weights_manifest.json").read_bytes()
    graph = {"modelTopology": {"node": [{"op": "Const"}]}, "weightsManifest": json.loads(types)}
    return [layers, types, json.dumps(graph).encode()]


def coreml(folder: Path) -> list[bytes]:
    """A program, and neural networks."""
    return [
        (PACKAGE / "model.mlmodel").read_bytes(),
        *(path.read_bytes() for path in sorted(RUNTIMES.glob("*.mlmodel"))),
    ]


def onnx(folder: Path) -> list[bytes]:
    return [quantized_onnx()]


def paddle(folder: Path) -> list[bytes]:
    """Weights, and programs of both kinds, cut to their parameters."""
    said = json.loads(INFERENCE.with_suffix(".json").read_bytes())["program"]["regions"][0]["blocks"][0]["ops"]
    parameters = [{key: one[key] for key in "#AO"} for one in said if one["#"] == "p"]
    program = json.dumps({"base_code": {}, "program": {"regions": [{"blocks": [{"ops": parameters}]}]}}).encode()
    sizes = {one["A"][3]: one["O"]["TT"]["D"][1] for one in parameters}
    variable = [
        field(1, name.encode())
        + field(2, field(1, 7) + field(3, field(1, field(1, 5) + b"".join(field(2, size) for size in shape))))
        + field(3, 1)
        for name, shape in sizes.items()
    ]
    message = field(1, field(1, 0) + b"".join(field(3, one) for one in variable))
    return [INFERENCE.read_bytes(), program, message]


def mxnet(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(RUNTIMES.glob("*.params"))]


def mindspore(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(RUNTIMES.glob("mindspore-*.ckpt"))]


def darknet(folder: Path) -> list[bytes]:
    """The .cfg of networks; the fuzzer puts weights beside them."""
    return [path.read_bytes() for path in sorted(RUNTIMES.glob("darknet-*.cfg"))]


def ncnn(folder: Path) -> list[bytes]:
    """Graphs of networks; the fuzzer puts weights beside them."""
    return [path.read_bytes() for path in sorted(RUNTIMES.glob("ncnn-*.param"))]


def mlc(folder: Path) -> list[bytes]:
    """The indexes of a folder."""
    return [path.read_bytes() for path in sorted((RUNTIMES / "mlc").glob("*.json"))]


def ctranslate2(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((TFJS.parent / "ctranslate2").glob("*.bin"))]


def caffe(folder: Path) -> list[bytes]:
    """A model of now, and a layer of before 2014."""
    old = b"".join(field(number, size) for number, size in enumerate((1, 1, 1, 2), 1)) + field(5, ONE_TWO)
    layer = field(2, field(4, b"conv") + field(5, 4) + field(6, old))
    return [(RUNTIMES / "caffe-net.caffemodel").read_bytes(), field(1, b"n") + layer]


def ggml(folder: Path) -> list[bytes]:
    """A file of llama.cpp's of each version, and of other layouts."""
    one = tensor("emb.weight", [2], 0, ONE_TWO)
    named = tokens([b"a", b"bc"])
    whisper = pack("<11i", 2, 9, 8, 1, 1, 9, 8, 1, 1, 1, 2008) + pack("<2i", 1, 1) + ONE_TWO[:4] + pack("<i", 2) + named
    return [
        llama(b"lmgg", None), llama(b"fmgg", 1), *(llama(b"tjgg", version) for version in (1, 2, 3)),
        b"fmgg" + pack("<5i", 101, 3, 2, 1, 0) + one,
        b"lmgg" + whisper + tensor("encoder.w", [2], 0, ONE_TWO) + tensor("decoder.w", [32, 1], 2, bytes(18)),
        b"lmgg" + pack("<6i", 2, 8, 2, 1, 1, 1) + pack("<i", 2) + named + tensor("model/wte", [2], 0, ONE_TWO),
        b"lmgg" + pack("<6i", 2, 8, 1, 1, 2, 1) + tokens([b"a", b"bc"], scored=True) + one,
    ]  # fmt: skip


def bare(folder: Path) -> list[bytes]:
    wide = np.arange(600, dtype=np.float32).reshape(20, 30)
    arrays = {
        "a": wide,
        "b": wide[:3].T,
        "c": np.ones(3, ">i2"),
        "d": np.float32(2),
        "e": np.array(["x"]),
        "n": {"k": 1},
    }
    made = [pickle.dumps(value, protocol) for value in (arrays, state()) for protocol in (0, 2, 4, 5)]
    return [*made, (NETS / "net.pkl").read_bytes()]


def joblibs(folder: Path) -> list[bytes]:
    import joblib

    wide = np.arange(60, dtype=np.float32).reshape(6, 10)
    objects = np.array([{"k": 1}, wide[:1]], dtype=object)
    nodes = np.zeros(2, [("a", "<i4"), ("b", "<f8", (2,))])
    value = {"a": wide, "b": wide.T, "c": np.ones(3, ">i2"), "e": np.array(["x"]), "o": objects, "n": nodes}
    made = []
    for method, protocol in (
        (0, 0),
        (0, 2),
        (0, 4),
        (("zlib", 3), 4),
        (("bz2", 3), 4),
        (("xz", 3), 4),
        (("lzma", 3), 4),
        (("lz4", 3), 4),
    ):
        joblib.dump(value, folder / "x", method, protocol)
        made.append((folder / "x").read_bytes())
    return made


def deepspeed(folder: Path) -> list[bytes]:
    """The pickles of files that DeepSpeed wrote, which the fuzzer puts into their archives again."""
    return [records_of(path)["data.pkl"] for path in sorted(RANKS.glob("*.pt"))]


def hdf5(folder: Path) -> list[bytes]:
    import h5py

    made = []
    for version in ("earliest", "latest"):
        with h5py.File(folder / "x.h5", "w", libver=version, track_order=version == "latest") as file:
            wide = np.arange(60, dtype=">i2").reshape(6, 10)
            file["g/a"] = np.arange(6, dtype=np.float32).reshape(2, 3)
            file["g/b"] = wide
            file["g/tied"] = file["g/a"]
            file["soft"] = h5py.SoftLink("/g/b")
            file["text"] = ["one", "two"]
            file["flags"], file["c"] = np.array([True, False]), np.ones(2, np.complex64)
            file.create_dataset("z", data=wide, chunks=(4, 4), compression="gzip", shuffle=True, fletcher32=True)
            file.create_dataset("grows", data=wide, chunks=(2, 4), maxshape=(None, 10))
            file.create_dataset("grows2", data=wide, chunks=(2, 4), maxshape=(None, None), fletcher32=True)
            file.create_dataset("fixed", data=wide, chunks=(4, 5), fillvalue=3)
            file.create_dataset("never", (3, 3), "f4", fillvalue=2)
            file["g"].attrs.update({"s": "text", "i": 3, "l": [1.5, 2.5], "names": ["a", "b"]})
            many = file.create_group("many")
            many.attrs.update({f"n{i}": i for i in range(10)})
            for i in range(12):
                many[f"v{i}"] = np.float32(i)
        made.append((folder / "x.h5").read_bytes())
    return made


def keras(folder: Path) -> list[bytes]:
    made = []
    for weights, method in zip(hdf5(folder), (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED), strict=True):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            archive.writestr("metadata.json", '{"keras_version": "3.15.1"}')
            archive.writestr("config.json", '{"class_name": "Sequential", "config": {"layers": [1, 2.5, null]}}')
            archive.writestr("model.weights.h5", weights)
            archive.writestr("assets/vocabulary.txt", "one\ntwo")
        made.append(buffer.getvalue())
    return made


def megatron(folder: Path) -> list[bytes]:
    return [records_of(SLICES / name / "model_optim_rng.pt")["data.pkl"] for name in ("mp_rank_00", "mp_rank_01")]


def nemos(folder: Path) -> list[bytes]:
    small = nemo_folder(folder / "n")
    return [nemo(folder / "x.nemo", small, mode).read_bytes() for mode in ("w:", "w:gz")]


def agents(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in AGENTS.glob("*.zip")]


def schemas(folder: Path) -> list[bytes]:
    """The schemas alone, for whoever changes these, and what stands beside them."""
    crafted = json.loads((SKOPS / "crafted.json").read_text())
    files = [zipfile.ZipFile(path).read("schema.json") for path in sorted(SKOPS.glob("*.skops"))]
    return [
        *(json.dumps(json.loads(text)).encode() for text in files),
        *(json.dumps(c).encode() for c in crafted.values()),
    ]


def torch_slices(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in PROCESSES.iterdir()]


def mapped(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(MAPPED.rglob("meta.json"))]


def archives(folder: Path) -> list[bytes]:
    members = {"d/m.pth": saved_bytes(state()), "d/c.json": b"{}", "__MACOSX/d/._m.pth": b"x", "r.py": b"print()"}
    packed = [zipped(folder / "x.zip", members, method) for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)]
    packed += [tarred(folder / "x.tar", members), tarred(folder / "x.tar.gz", members, "w:gz"), mar(folder / "x.mar")]
    return [path.read_bytes() for path in packed]


MAKERS: dict[str, Callable[[Path], list[bytes]]] = {
    "torch-legacy": legacy, "torch-tar": tar, "torchscript": script, "torch-export": export, "gguf": gguf, "npz": npz,
    "npy": npy, "equinox": equinox, "tensordict": mapped,
    "flax": flax, "tensorflow": tensorflow, "tflite": tflite, "orbax": orbax, "pickle": bare, "deepspeed": deepspeed,
    "onnx": onnx, "openvino": openvino, "tfjs": tfjs, "ggml": ggml, "coreml": coreml, "paddle": paddle, "mxnet": mxnet, "mindspore": mindspore, "darknet": darknet, "ncnn": ncnn, "mlc": mlc, "caffe": caffe, "ctranslate2": ctranslate2, "joblib": joblibs, "hdf5": hdf5, "keras": keras, "megatron": megatron, "nemo": nemos, "stable-baselines3": agents, "skops": schemas,
    "archive": archives, "safetensors-slices": torch_slices,
}  # fmt: skip


def honest(name: str) -> list[bytes]:
    """Files of the format of that name; none of formats that the corpus has honest files of."""
    if name not in MAKERS:
        return []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torch.jit is no longer developed
        return MAKERS[name](Path(folder))
