"""Throwing changed files at the readers: ``python -m tests.hostile.fuzz --seconds 60`` (``--help`` for the rest).

For each mutant a reader may raise a CkptconvError, or read it: then everything that `inspect` looks at is looked at, the
first bytes of every tensor are read, and now and then it is converted. Any other exception, more than `SECONDS` or more
than `BYTES` is a finding: the mutant is kept in the folder that --save names, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zipfile
import zlib
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import ckptconv
from ckptconv.api.inspect import inspect
from ckptconv.core.metadata import objects_in
from ckptconv.errors import CkptconvError
from ckptconv.formats.npz.skops.schema import _LOADERS
from ckptconv.formats.torch.pickle import Budget, Machine
from ckptconv.formats.torch.tree.build import build_tree
from ckptconv.formats.torch.values.construct import TorchConstructors
from ckptconv.testing.damage import limited_memory
from tests.hostile import mutate
from tests.hostile.cases import beside, checkpoint
from tests.hostile.folders import FOLDERS, joined, unpacked
from tests.hostile.honest import INFERENCE, MAPPED, PACKAGE, PROCESSES, RANKS, RUNTIMES, SKOPS, SLICES, TFJS, honest
from tests.hostile.make import corpus
from tests.hostile.mutate import mutant
from tests.support.craft import repacked
from tests.support.orbax_files import BETWEEN, write_node
from tests.support.tensorflow_files import table

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS = 2.0
BYTES = 256 << 20
FIRST = 1 << 12
CONVERTED = 50
"""One in so many of the files that are read is also converted."""

COMPARED = 20
"""One in so many of the files that are read is also validated, and compared with a model of transformers."""

TRANSFORMERS = Path(__file__).parents[2] / "fixtures" / "others" / "torch-of-flax-bert.pth"

SEED_BYTES = 1 << 14
"""Files of the corpus up to this size are seeds: a bomb's size is its whole idea."""

PICKLES = ("calls", "names", "not followed", "views", "valid", "ordinary", "odd names")


class TooSlowError(Exception):
    """A reader was at work for longer than it may be."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is fuzzed: how, with the corpus' files of which categories, and which tokens. One row for each reader."""

    name: str
    run: Callable[[Path, bytes, random.Random], None]
    categories: tuple[str, ...]
    tokens: list[bytes]


@dataclass(slots=True)
class Score:
    """What came of it."""

    executions: int = 0
    read: int = 0
    findings: list[str] = field(default_factory=list)


def follow(path: Path, data: bytes, chance: random.Random) -> None:
    """The pickle machine by itself."""
    del path, chance
    build_tree(Machine(data, TorchConstructors()).run(), Budget(len(data)))


def packed(path: Path, data: bytes, chance: random.Random) -> None:
    """A pickle in an archive that is whole, so that its checksum is right."""
    opened(path, checkpoint(data), chance)


def opened(path: Path, data: bytes, chance: random.Random) -> None:
    """A file, whatever it is."""
    path.write_bytes(data)
    looked_at(path, chance)


def looked_at(path: Path, chance: random.Random) -> None:
    """What anyone may ask of a checkpoint."""
    inspect(path).to_dict()
    with ckptconv.open(path) as found:
        for tensor in found.all_tensors.values():
            size = min(tensor.info.nbytes, FIRST)
            assert len(tensor.read(0, size)) == size, "short data"
        edits = ckptconv.Edits(dequantize=bool(found.notes.quantized))
    if not chance.randrange(COMPARED):
        with suppress(CkptconvError):  # most are of no architecture
            ckptconv.validate(path)
        with suppress(CkptconvError):
            ckptconv.diff(path, TRANSFORMERS, headers=True)
    if not chance.randrange(CONVERTED):
        names = ["out.pth", "out.safetensors", "out.gguf", "out.npz", "out.npy"]
        target = path.with_name(chance.choice(["out.keras"] if found.format == "keras" else names))
        ckptconv.convert(path, target, edits=edits, force=True, allow_loss=["all"])
        ckptconv.open(target).close()


def tabled(path: Path, data: bytes, chance: random.Random) -> None:
    """The entries of TensorFlow's index, in a table whose checksums are right, beside a file of data."""
    path.with_name(f"{path.name}.data-00000-of-00001").write_bytes(bytes(1 << 13))
    opened(path, table(data), chance)


def graphed(path: Path, data: bytes, chance: random.Random) -> None:
    """The document of a model of OpenVINO's, beside a file of weights."""
    path.with_suffix(".bin").write_bytes(bytes(1 << 13))
    opened(path.with_suffix(".xml"), data, chance)


def beside_weights(path: Path, data: bytes, chance: random.Random) -> None:
    """The document of a model of TensorFlow.js', beside the files of two."""
    folder = path.with_name("tfjs")
    if not folder.exists():
        shutil.copytree(TFJS, folder)
    opened(folder / "model.json", data, chance)


def configured(path: Path, data: bytes, chance: random.Random) -> None:
    """The .cfg of a network of Darknet's, beside its weights."""
    weights = path.with_suffix(".weights")
    if not weights.exists():
        shutil.copy(RUNTIMES / "darknet-saved.weights", weights)
    path.with_suffix(".cfg").write_bytes(data)
    looked_at(weights, chance)


def layered(path: Path, data: bytes, chance: random.Random) -> None:
    """The graph of a network of ncnn's, beside the weights of the one that it begins like."""
    graphs = sorted(RUNTIMES.glob("ncnn-*.param"))
    graph = next((one for one in graphs if one.read_bytes()[:16] == data[:16]), graphs[0])
    shutil.copy(graph.with_suffix(".bin"), path.with_suffix(".bin"))
    opened(path.with_suffix(".param"), data, chance)


def indexed(path: Path, data: bytes, chance: random.Random) -> None:
    """The index of a folder of MLC-LLM's."""
    folder = path.with_name("mlc")
    if not folder.exists():
        shutil.copytree(RUNTIMES / "mlc", folder)
    opened(folder / "tensor-cache.json", data, chance)


def blobbed(path: Path, data: bytes, chance: random.Random) -> None:
    """A model of Core ML's, beside the weights of its package."""
    folder = path.with_name("weights")
    if not folder.exists():
        shutil.copytree(PACKAGE / "weights", folder)
    opened(path, data, chance)


def programmed(path: Path, data: bytes, chance: random.Random) -> None:
    """Weights of PaddlePaddle's, or a program beside whole ones."""
    home = path.with_name("paddle")
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    program = {b"{": "x.json", b"\n": "x.pdmodel"}.get(data[:1])
    if program:
        (home / program).write_bytes(data)
    opened(home / "x.pdiparams", INFERENCE.read_bytes() if program else data, chance)


def stored(path: Path, data: bytes, chance: random.Random) -> None:
    """The list of a tree of Orbax's, and a node of its store whose checksum is right."""
    listed, _, node = data.partition(BETWEEN)
    folder = path.with_name(f"{path.name}.orbax")
    write_node(folder, node)
    (folder / "_METADATA").write_bytes(listed)
    looked_at(folder, chance)


def ranked(path: Path, data: bytes, chance: random.Random) -> None:
    """The pickle of one rank of DeepSpeed's, in its archive, beside the whole files of the others."""
    folder = path.with_name("ranks")
    shutil.copytree(RANKS, folder, dirs_exist_ok=True)
    name = "mp_rank_00_model_states.pt" if b"param_shapes" in data else "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"
    repacked(RANKS / name, folder / name, data_pkl=data)
    looked_at(folder, chance)


def cut_for_ranks(path: Path, data: bytes, chance: random.Random) -> None:
    """The pickle of one rank of Megatron's, in its archive, beside the whole file of the other."""
    folder = path.with_name("slices")
    shutil.copytree(SLICES, folder, dirs_exist_ok=True)
    name = "mp_rank_01/model_optim_rng.pt"
    repacked(SLICES / name, folder / name, data_pkl=data)
    looked_at(folder, chance)


def schemed(path: Path, data: bytes, chance: random.Random) -> None:
    """The schema of an object of skops', beside the arrays of one, in a zip whose checksums are right. Bytes that are
    no JSON any more, as nearly all are, say which values of whole schemas change places.
    """
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        data = json.dumps(swapped(random.Random(zlib.crc32(data)))).encode()
    with zipfile.ZipFile(path, "w") as file, zipfile.ZipFile(SKOPS / "kinds.skops") as whole:
        for name in whole.namelist():
            file.writestr(name, data if name == "schema.json" else whole.read(name))
    looked_at(path, chance)


@cache
def schemas() -> list[bytes]:
    """Those of whole files, made once."""
    return honest("skops")


def swapped(chance: random.Random) -> object:
    """A schema of skops' of which some values stand where others stood, of it or of others."""
    whole, other = (json.loads(chance.choice(schemas())) for _ in range(2))
    values = [value for _, node in objects_in(other) for value in node.values()]
    for _ in range(chance.randrange(1, 4)):
        _, node = chance.choice([*objects_in(whole)])
        if node:
            node[chance.choice([*node])] = deepcopy(chance.choice(values))
    return whole


def beside_processes(path: Path, data: bytes, chance: random.Random) -> None:
    """What one process wrote of a folder of slices, beside the whole files of the others."""
    folder = path.with_name("processes")
    shutil.copytree(PROCESSES, folder, dirs_exist_ok=True)
    (folder / "shard-00002-model-00001-of-00001.safetensors").write_bytes(data)
    looked_at(folder, chance)


def mapped(path: Path, data: bytes, chance: random.Random) -> None:
    """The listing of a folder of tensordict's, beside the whole files and folders that it tells of."""
    folder = path.with_name("mapped")
    shutil.copytree(MAPPED, folder, dirs_exist_ok=True)
    (folder / "meta.json").write_bytes(data)
    looked_at(folder, chance)


def together(path: Path, data: bytes, chance: random.Random) -> None:
    """A folder of small files beside harmless weights, and now and then the archive of it, of which the same is true."""
    folder = unpacked(data, path.with_name("folder"))
    found = inspect(folder)
    found.to_dict()
    if not chance.randrange(CONVERTED // 10):
        packed = Path(shutil.make_archive(str(path), chance.choice(["zip", "tar", "gztar"]), folder))
        again = inspect(packed)
        nested = any(one.code == "not-looked-at" for one in again.findings)  # an archive in the archive
        assert nested or again.verdict == found.verdict, "another verdict of the archive"


_CATEGORIES: dict[str, tuple[str, ...]] = {
    "torch": ("zip", "calls", "valid", "ordinary"),
    "torch-legacy": ("legacy",),
    "torch-tar": ("tar",),
    "torchscript": (),
    "torch-export": (),
    "safetensors": ("safetensors", "whole safetensors"),
    "onnx": ("onnx", "whole onnx"),
    "gguf": (),
    "ggml": (),
    "npz": (),
    "mxnet": (),
    "mindspore": (),
    "caffe": (),
    "ctranslate2": (),
    "npy": (),
    "equinox": (),
    "flax": (),
    "tflite": (),
    "joblib": ("of loaders",),
    "pickle": ("bare",),
    "hdf5": (),
    "keras": (),
    "nemo": ("tar",),
    "stable-baselines3": (),
    "archive": ("zip", "tar"),
}
_SAFETENSORS = [*mutate.JSON, *(b"\\" + token for token in mutate.JSON)]
_TOKENS = {
    "torch": mutate.ZIP, "torch-legacy": mutate.PICKLE, "torch-tar": mutate.TAR, "onnx": mutate.WIRE,
    "torchscript": [*mutate.ZIP, *mutate.PICKLE], "torch-export": [*mutate.ZIP, *mutate.JSON], "safetensors": _SAFETENSORS,
    "gguf": mutate.GGUF, "ggml": mutate.GGML, "mxnet": mutate.MXNET, "caffe": mutate.WIRE, "mindspore": mutate.MINDSPORE, "ctranslate2": mutate.MXNET, "npz": mutate.NPZ, "npy": mutate.NPY,
    "equinox": [*mutate.NPY, *mutate.JSON], "flax": mutate.MSGPACK, "tflite": mutate.TFLITE, "pickle": mutate.PICKLE,
    "joblib": [*mutate.PICKLE, *mutate.JOBLIB],
    "hdf5": mutate.HDF5, "keras": [*mutate.ZIP, *mutate.HDF5], "nemo": mutate.TAR,
    "stable-baselines3": [*mutate.ZIP, *mutate.PICKLE, *mutate.JSON], "archive": [*mutate.ZIP, *mutate.TAR],
}  # fmt: skip

TARGETS = [
    Target("machine", follow, PICKLES, mutate.PICKLE),
    Target("pickle in an archive", packed, PICKLES, mutate.PICKLE),
    *(Target(name, opened, categories, _TOKENS[name]) for name, categories in _CATEGORIES.items()),
    Target("tensorflow", tabled, (), [*mutate.WIRE, b"\0\1", b"_CHECKPOINTABLE_OBJECT_GRAPH"]),
    Target("tensordict", mapped, (), [*mutate.JSON, b"torch.float32", b"stack_dim", b"_is_non_tensor", b"is_nested"]),
    Target("skops", schemed, (), [*mutate.JSON, *(f'"{name}"'.encode() for name in _LOADERS)]),
    Target("openvino", graphed, (), mutate.XML),
    Target("tfjs", beside_weights, (), mutate.TFJS),
    Target("coreml", blobbed, (), mutate.COREML),
    Target("paddle", programmed, (), mutate.PADDLE),
    Target("darknet", configured, (), mutate.DARKNET),
    Target("ncnn", layered, (), mutate.NCNN),
    Target("mlc", indexed, (), mutate.MLC),
    Target("orbax", stored, (), mutate.ORBAX),
    Target("deepspeed", ranked, (), mutate.PICKLE),
    Target("megatron", cut_for_ranks, (), mutate.PICKLE),
    Target("folder", together, (), mutate.FOLDER),
    Target("safetensors-slices", beside_processes, (), _SAFETENSORS),
]


def seeds(target: Target) -> list[bytes]:
    """The corpus' files that a target starts from; for pickles, what is in their archives."""
    files = [case.data for case in corpus() if case.category in target.categories and len(case.data) <= SEED_BYTES]
    if target.name == "safetensors":
        return files + _converted()
    if target.run is together:
        return [joined(case) for case in FOLDERS if sum(map(len, case.files.values())) <= SEED_BYTES]
    folders = (stored, ranked, cut_for_ranks, beside_processes, mapped)
    if target.run in (
        opened,
        tabled,
        graphed,
        beside_weights,
        blobbed,
        programmed,
        configured,
        layered,
        indexed,
        *folders,
    ):
        return files + honest(target.name)
    found = []
    for data in files:
        start = data.find(b"\x80", data.find(b"data.pkl"))
        end = data.find(b"PK\3\4", start)
        found.append(data[start : end if end > 0 else None])
    return [*found, beside(b"N")]


def _converted() -> list[bytes]:
    """Honest checkpoints as safetensors, with records of every kind."""
    made = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for case in (case for case in corpus() if case.category in ("valid", "ordinary") and case.suffix != ".onnx"):
            (folder / case.file).write_bytes(case.data)
            ckptconv.convert(folder / case.file, folder / "out.safetensors", force=True)
            made.append((folder / "out.safetensors").read_bytes())
    return made


def fuzz(target: Target, seconds: float, folder: Path, *, seed: int, most: int = sys.maxsize) -> Score:
    """Run one target for so long, or so often."""
    chance, score, starts = random.Random(seed), Score(), seeds(target)
    path, known = folder / "mutant", set[str]()
    end = time.monotonic() + seconds
    with limited_memory(BYTES * 2):
        while time.monotonic() < end and score.executions < most:
            data = mutant(chance.choice(starts), starts, target.tokens, chance)
            score.executions += 1
            problem = _problem(target, path, data, chance, score)
            if problem is not None and problem.splitlines()[-1] not in known:
                known.add(problem.splitlines()[-1])
                score.findings.append(problem)
                (folder / f"finding-{target.name.replace(' ', '-')}-{score.executions}").write_bytes(data)
    return score


def _problem(target: Target, path: Path, data: bytes, chance: random.Random, score: Score) -> str | None:
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        target.run(path, data, chance)
        score.read += 1
    except CkptconvError as error:
        if len(str(error)) > 20_000:
            return f"an error of {len(str(error)):,} characters"
    except (Exception, TooSlowError) as error:  # the very thing that is looked for
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{traceback.format_exc()}\n{type(error).__name__} in {Path(where.filename).name}:{where.lineno}"
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return None


def _too_slow(*_: object) -> None:
    raise TooSlowError


def main() -> int:
    """Fuzz every target, or those that are named, the time shared among them."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--save", type=Path, default=Path("fuzz"))
    parser.add_argument("targets", nargs="*", choices=[[], *(target.name for target in TARGETS)])
    given = parser.parse_args()
    given.save.mkdir(parents=True, exist_ok=True)
    chosen = [target for target in TARGETS if not given.targets or target.name in given.targets]
    print(f"seed {given.seed}")
    found = 0
    for target in chosen:
        score = fuzz(target, given.seconds / len(chosen), given.save, seed=given.seed)
        said = f"{score.executions:,} executions, {score.read:,} read, {len(score.findings)} findings"
        print(f"{target.name}: {said}", *score.findings, sep="\n", flush=True)
        found += len(score.findings)
    return int(found > 0)


signal.signal(signal.SIGVTALRM, _too_slow)

if __name__ == "__main__":
    sys.exit(main())
