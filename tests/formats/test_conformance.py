"""Our own formats pass the suite that we ask a plug-in's to pass, with their reference readers beside them."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
import torch
from gguf import GGUFReader
from safetensors import deserialize

import ckptconv
from ckptconv.core.arrays import NUMPY_NAMED, NUMPY_NAMES, TORCH_NAMES, to_bytes
from ckptconv.core.composite import renamed
from ckptconv.core.dtypes import DType
from ckptconv.core.metadata import StateDict
from ckptconv.formats import npz as our_npz
from ckptconv.formats import safetensors as our_safetensors
from ckptconv.formats import torch as our_torch
from ckptconv.formats.registry import BUILTIN, by_name
from ckptconv.testing import FormatTests, Reading, Sample, samples_for
from tests.support.flax_files import restore
from tests.support.nodes import as_node, image, load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ckptconv.formats.base import Format

DTYPE_NAMES = {getattr(torch, name): dtype for dtype, name in TORCH_NAMES.items() if hasattr(torch, name)}
GONE = object()
DTYPE_BY_NUMPY = {
    np.dtype(name).str[1:]: dtype for dtype, name in NUMPY_NAMES.items() if not name.startswith("ml_dtypes")
} | {"V2": DType.BF16}


def read_by_torch(one: Format) -> Format:
    """The format with the element types alone that the installed torch, its reference, has as well."""
    return replace(one, holds=replace(one.holds, dtypes=tuple(DTYPE_NAMES.values())))


class TestTorch(FormatTests):
    format = read_by_torch(our_torch.FORMATS[0])

    def reference(self, path: Path) -> Reading:
        """torch.load; numpy values, which the sample of all metadata has, need `weights_only=False`."""
        with warnings.catch_warnings():  # that quantized and sparse tensors are experimental
            warnings.simplefilter("ignore")
            return of_torch(load(path, weights_only=path.stem != "metadata"))


class TestSafetensors(FormatTests):
    format = our_safetensors.FORMATS[0]

    def reference(self, path: Path) -> Reading:
        entries = deserialize(path.read_bytes())
        return Reading({name: (e["dtype"], tuple(e["shape"]), bytes(e["data"])) for name, e in entries})


class TestGguf(FormatTests):
    format = by_name("gguf")

    def reference(self, path: Path) -> Reading:
        with ckptconv.open(path) as ours:
            empty = {name: tensor.info.shape for name, tensor in ours.items() if not tensor.info.numel}
        tensors = {
            tensor.name: (tensor.tensor_type.name, tuple(map(int, reversed(tensor.shape))), tensor.data.tobytes())
            for tensor in GGUFReader(path).tensors
        }
        for name, shape in empty.items():  # where the 0 stands is in the record alone
            if name in tensors and not tensors[name][2]:
                tensors[name] = tensors[name][0], shape, b""
        return Reading(tensors)


class TestNpz(FormatTests):
    format = our_npz.FORMATS[0]

    def reference(self, path: Path) -> Reading:
        found = {}
        with path.open("rb") as data, np.load(data) as file:
            for name in file.files:
                array = file[name]
                if isinstance(array, np.ndarray):
                    dtype = DTYPE_BY_NUMPY[array.dtype.str[1:]]
                    found[name] = (dtype.name, array.shape, array.tobytes())
        return Reading(found)


class TestNpy(FormatTests):
    format = our_npz.NPY

    def reference(self, path: Path) -> Reading:
        array = np.asarray(np.load(path, allow_pickle=False))
        array = array.astype(array.dtype.newbyteorder("<"))
        return Reading({"tensor": (DTYPE_BY_NUMPY[array.dtype.str[1:]].name, array.shape, array.tobytes())})


class TestFlax(FormatTests):
    format = by_name("flax")

    def reference(self, path: Path) -> Reading:
        return Reading(dict(of_flax(restore(path.read_bytes()), ())))


def of_flax(node: Any, path: tuple[Any, ...]) -> Iterator[tuple[str, tuple[str, tuple[int, ...], bytes]]]:
    """The arrays of a tree, by the keys to them."""
    if isinstance(node, np.ndarray):
        dtype = NUMPY_NAMED[node.dtype.name]
        yield ".".join(map(str, path)), (dtype.name, node.shape, to_bytes(node, dtype))
    elif isinstance(node, (dict, list)):
        for key, child in node.items() if isinstance(node, dict) else enumerate(node):
            yield from of_flax(child, (*path, key))


class TestHdf5(FormatTests):
    format = by_name("hdf5")

    def reference(self, path: Path) -> Reading:
        names: list[str] = []
        with h5py.File(path) as file:
            file.visit_links(names.append)
            return Reading({name: of_h5py(file[name]) for name in names if isinstance(file[name], h5py.Dataset)})

    def test_a_flipped_bit_in_the_header_is_refused_or_read_as_the_reference_does(self, tmp_path: Path) -> None:
        """In every ninth byte, without the zeros that fill up a heap of texts: h5py takes its time for each."""
        judge = self._judge(tmp_path)
        data = (tmp_path / "small.h5").read_bytes()
        judge.bit_flips(
            [at for at in judge.header_bytes(tmp_path / "small.h5")[::9] if data[at : at + 16].strip(b"\0")]
        )
        assert not judge.verdicts.failures, judge.verdicts.text()
        assert judge.verdicts.refused


class TestKeras(FormatTests):
    """Of what has a configuration of Keras' and Keras' paths, as all that is written so has."""

    format = by_name("keras")

    def samples(self) -> list[Sample]:
        return [
            self.complete(sample)
            for sample in samples_for(self.format.holds)
            if isinstance(sample.root, dict | StateDict)
        ]

    def complete(self, sample: Sample) -> Sample:
        names = {name: f"{name}/vars/0" for name in sample.tensors}
        root = sample.root if isinstance(sample.root, dict) else {"state_dict": sample.root}
        return replace(
            sample, tensors={names[name]: one for name, one in sample.tensors.items()},
            composites={name: renamed(one, names) for name, one in sample.composites.items()},
            root={"config.json": {"class_name": "Net", "units": [1, 0.5, None]}, "metadata.json": {}, **root},
        )  # fmt: skip

    def reference(self, path: Path) -> Reading:
        names: list[str] = []
        with zipfile.ZipFile(path) as archive:
            json.loads(archive.read("config.json"))
            weights = archive.read("model.weights.h5")
        with h5py.File(io.BytesIO(weights)) as file:
            file.visit_links(names.append)
            return Reading({name: of_h5py(file[name]) for name in names if isinstance(file[name], h5py.Dataset)})

    def test_a_flipped_bit_in_the_header_is_refused_or_read_as_the_reference_does(self, tmp_path: Path) -> None:
        """In every fiftieth byte."""
        judge = self._judge(tmp_path)
        judge.bit_flips(judge.header_bytes(tmp_path / "small.keras")[::50])
        assert not judge.verdicts.failures, judge.verdicts.text()
        assert judge.verdicts.refused


SMALL = {("float32", 2): "BF16", ("float16", 1): "F8_E5M2"}
"""Floats that h5py reads as wider ones, by the type that it reads and their size."""


def of_h5py(dataset: h5py.Dataset) -> tuple[str, tuple[int, ...], bytes]:
    """The elements of a dataset as they lie in the file, and what they are."""
    word = dataset.id.get_type()
    raw = np.zeros(dataset.shape, f"V{word.get_size()}")
    if raw.size:
        dataset.id.read(h5py.h5s.ALL, h5py.h5s.ALL, raw, word)
    found = DTYPE_BY_NUMPY.get(dataset.dtype.str[1:])
    name = SMALL.get((dataset.dtype.name, word.get_size())) or (found.name if found else str(dataset.dtype))
    return name, dataset.shape, raw.tobytes()


@pytest.mark.parametrize("one", [one for one in BUILTIN if not one.writer], ids=lambda one: str(one.name))
def test_a_format_that_is_only_read_is_described_and_refuses_foreign_files(one: Format, tmp_path: Path) -> None:
    class Suite(FormatTests):
        format = one

    suite = Suite()
    suite.test_its_description_names_functions_that_exist()
    suite.test_its_description_reads_well()
    suite.test_foreign_files_are_refused_without_another_exception(tmp_path)


def dense_parts(tensor: torch.Tensor) -> dict[tuple[str, ...], torch.Tensor]:
    """What a quantized or CSR tensor is made of, by the ends of our names."""
    if tensor.is_quantized and tensor.qscheme() == torch.per_tensor_affine:
        scale, point = torch.tensor(tensor.q_scale(), dtype=torch.float64), torch.tensor(tensor.q_zero_point())
    elif tensor.is_quantized:
        scale, point = tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()
    elif tensor.layout == torch.sparse_csr:
        rows, columns = tensor.crow_indices(), tensor.col_indices()
        return {("crow_indices",): rows, ("col_indices",): columns, ("values",): tensor.values()}
    else:
        return {(): tensor}
    return {(): tensor.int_repr(), ("scale",): scale, ("zero_point",): point}


def of_torch(content: object) -> Reading:
    """Tensors by the names that we give them, and all the rest."""
    tensors: dict[str, tuple[str, tuple[int, ...], bytes]] = {}

    def rest(node: Any, path: tuple[str, ...]) -> Any:
        if isinstance(node, torch.Tensor):
            tensors.update({".".join((*path, *end)): seen(part) for end, part in dense_parts(node).items()})
            return GONE
        if isinstance(node, dict):
            model = "state_dict" in node
            items = [
                (key, rest(child, () if key == "state_dict" else (*path, str(key)))) for key, child in node.items()
            ]
            kept = [(key, child) for key, child in items if child is not GONE]
            if isinstance(node, defaultdict):
                return defaultdict(node.default_factory, kept)
            return type(node)(dict(kept)) if kept or (not items and not model) else GONE
        if type(node) in (list, tuple):
            inner = [
                rest(child, (*path, str(i)) if path or not isinstance(child, dict) else ())
                for i, child in enumerate(node)
            ]
            return type(node)(child for child in inner if child is not GONE)
        return node

    left = rest(content, ())
    return Reading(tensors, as_node(left) if isinstance(left, dict) else {} if left is GONE else None)


def seen(tensor: torch.Tensor) -> tuple[str, tuple[int, ...], bytes]:
    dtype = DTYPE_NAMES[tensor.dtype]
    shape = tuple(tensor.shape)
    return dtype.name, (*shape[:-1], shape[-1] * 2) if dtype is DType.F4 else shape, image(tensor)
