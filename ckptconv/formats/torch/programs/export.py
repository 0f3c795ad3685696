"""Reader for torch.export archives (.pt2), in two layouts. Since torch 2.8, a zip with one folder:

    NAME/archive_format                                "pt2"; NAME/archive_version, "0"
    NAME/models/MODEL.json                             the graph, which stays behind
    NAME/data/weights/MODEL_weights_config.json        {"config": {name: payload}}: the state_dict
    NAME/data/weights/weight_0 …                       a storage each
    NAME/data/constants/MODEL_constants_config.json    the same for constants, including non-persistent buffers
    NAME/data/constants/tensor_0 …, custom_obj_0 …, opaque_obj_0 …
    NAME/data/sample_inputs/MODEL.pt                   a torch.save
    NAME/byteorder

`payloads` reads the configurations. Some releases have ``data/weights/MODEL.pt`` and ``data/constants/MODEL.pt``
instead, each a torch.save of a dict. Before torch 2.8, a zip without a folder:

    version                            of the schema
    serialized_exported_program.json   the graph
    serialized_state_dict.pt           torch.save of the state_dict; named ``.json`` in the first releases
    serialized_constants.pt            torch.save of the constants
    serialized_example_inputs.pt       torch.save

Source: torch/export/pt2_archive/_package.py, torch/export/__init__.py (`load`).

The model's tensors are those of the state_dict; if there are several models, names begin with the model's name.
Constants are extras. torch also unpickles sample inputs, custom and opaque objects: what these would call is shown with
the rest. Compiled code (``data/aotinductor``) is a library that torch loads with the file, so that it counts as a call,
and so does Python text in a graph (`graph_code`). Refused by name: archives with nothing but compiled code, sparse
tensors, other versions of the archive.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ckptconv.core.metadata import Opaque
from ckptconv.core.notes import Program
from ckptconv.errors import CkptconvError, CorruptFileError, UnsupportedError
from ckptconv.formats.graphs.notes import stays_behind
from ckptconv.formats.torch.containers.saved import check_small_records, follow, is_big_endian, refuse_npz, root_of
from ckptconv.formats.torch.pickle import Budget, Global, Machine, UnbuiltObject
from ckptconv.formats.torch.programs.payloads import CUSTOM, OPAQUE, Payload, graph_of, payloads, programs_of
from ckptconv.formats.torch.programs.script import ScriptConstructors, ScriptMachine
from ckptconv.formats.torch.tree.assemble import assemble
from ckptconv.formats.torch.tree.build import build_tree_around
from ckptconv.formats.torch.tree.placing import Placer, ZipRecords
from ckptconv.formats.torch.values.construct import TorchConstructors
from ckptconv.formats.torch.values.stubs import TensorStub
from ckptconv.io.limits import MAX_PICKLE_BYTES
from ckptconv.io.window import Window
from ckptconv.io.zip import ZipArchive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.formats.torch.pickle import Value
    from ckptconv.io.source import Source

_LOADS_COMPILED = "torch._C._aoti.AOTIModelPackageLoader"

OLD_GRAPH = "serialized_exported_program.json"


def claims(source: Source) -> bool:
    """Whether this is a zip archive that states this format, or has the records of the older layout."""
    try:
        archive = ZipArchive.of(source)
        root = root_of(archive, "archive_format")
        return (
            root is not None and archive.read(root + "archive_format", 64) == b"pt2"
        ) or OLD_GRAPH in archive.entries
    except CkptconvError:
        return False


def read(source: Source) -> Checkpoint:
    """Open the archive. Reads its directory, its JSON and its pickles, but no tensor byte.

    Raises CorruptFileError, LimitError, UnsupportedError, UnsafeError (a tensor of the model depends on a call).
    """
    archive = ZipArchive.of(source)
    refuse_npz(archive, source)
    archive.check_names()  # torch reads the local names of all entries
    if OLD_GRAPH in archive.entries and any(name.endswith("/archive_format") for name in archive.entries):
        raise CorruptFileError("the archive is of two layouts at once", hint="do not trust it")
    export = _Export(archive, root_of(archive, "archive_format") or "")
    if OLD_GRAPH in archive.entries:
        export.read_old()
    elif export.root:
        export.read_models()
    else:
        raise UnsupportedError("this zip archive is not a torch.export archive", hint="leave --from out")
    beside = {key: part for key, part in (("constants", export.constants), ("other", export.other)) if part}
    budget = Budget(export.size)
    found = assemble(
        build_tree_around(export.weights, beside, budget), export.place, budget, format="torch-export",
        machines=export.machines, file=source, graph=export.graph,
        findings=(stays_behind("the exported graph"),),
    )  # fmt: skip
    found.notes = replace(found.notes, programs=(*found.notes.programs, *export.programs, *export.compiled()))
    return found


@dataclass(slots=True)
class _Export:
    """The contents of an archive.

    weights:   the models' tensors.
    constants: everything else that the graphs refer to.
    other:     further values that torch would unpickle and that contain objects, by entry.
    programs:  code in the graphs that torch would run.
    places:    the function that places a storage's tensors, by the `id` of its stub.
    size:      bytes of all pickles and configurations.
    """

    archive: ZipArchive
    root: str
    weights: OrderedDict[str, Value] = field(default_factory=OrderedDict)
    constants: dict[str, Value] = field(default_factory=dict)
    other: dict[str, Value] = field(default_factory=dict)
    machines: list[Machine] = field(default_factory=list)
    places: dict[int, Callable[[str, TensorStub], LazyTensor]] = field(default_factory=dict)
    graph: MetaNode = None
    programs: list[Program] = field(default_factory=list)
    size: int = 0

    def place(self, name: str, stub: TensorStub) -> LazyTensor:
        """The tensor for a stub, whose bytes are in this archive or in an archive inside it."""
        return self.places[id(stub.storage)](name, stub)

    def read_models(self) -> None:
        """The layout with a folder."""
        if self.archive.read(self.root + "archive_format", 64) != b"pt2":
            raise CorruptFileError("the archive's format is not 'pt2'")
        check_small_records(self.archive, self.root)
        version = self.archive.read(self.root + "archive_version", 64) if self._has("archive_version") else b""
        if version != b"0":
            raise UnsupportedError(
                f"the archive's version is {version!r}, and '0' is known", hint="export it again with torch 2.13"
            )
        start = f"{self.root}models/"
        names = [name for name in self.archive.entries if name.startswith(start) and name.endswith(".json")]
        models = [name.removeprefix(start).removesuffix(".json") for name in names]
        if not models:
            raise UnsupportedError(
                "this torch.export archive holds no model that is read, compiled code maybe",
                hint="torch.export.save(program, FILE) keeps the weights",
            )
        self.graph = graph_of(self.archive, names[0])
        for name in names:
            self.programs += programs_of(self.archive, name)
        for model in models:
            prefix = f"{model}." if len(models) > 1 else ""
            _merge(self.weights, self._tensors("weights", model), prefix)
            _merge(self.constants, self._tensors("constants", model), prefix)
            if self._has(inputs := f"data/sample_inputs/{model}.pt"):
                self._look_at(self.root + inputs)

    def read_old(self) -> None:
        """The layout without a folder."""
        self.graph = graph_of(self.archive, OLD_GRAPH)
        self.programs += programs_of(self.archive, OLD_GRAPH)
        for target, name in ((self.weights, "serialized_state_dict"), (self.constants, "serialized_constants")):
            for entry in (f"{name}.pt", f"{name}.json"):
                if entry in self.archive.entries:
                    _merge(target, self._saved_dict(entry), "")
                    break
            else:
                if target is self.weights:
                    raise CorruptFileError(f"the archive has no {name}.pt")
        if "serialized_example_inputs.pt" in self.archive.entries:
            self._look_at("serialized_example_inputs.pt")

    def compiled(self) -> Iterator[Program]:
        """The compiled models: torch loads each as a library, whichever model is asked for."""
        start = f"{self.root}data/aotinductor/"
        names = (name.removeprefix(start).partition("/")[0] for name in self.archive.entries if name.startswith(start))
        for model in dict.fromkeys(names):
            yield Program(f"{start}{model}", Opaque(_LOADS_COMPILED, "called", (model,)), "torch.export")

    def _has(self, name: str) -> bool:
        return self.root + name in self.archive.entries

    def _tensors(self, kind: str, model: str) -> dict[str, Value]:
        """The weights or the constants of a model, by name."""
        folder = f"{self.root}data/{kind}/"
        if f"{folder}{model}.pt" in self.archive.entries:
            return self._saved_dict(f"{folder}{model}.pt")
        name = f"{folder}{model}_{kind}_config.json"
        found = payloads(self.archive, name, folder)
        self.size += self.archive.entries[name].size
        placer = Placer(ZipRecords(self.archive, folder), is_big_endian(self.archive, self.root))
        return {name: self._payload(payload, folder, placer) for name, payload in found.items()}

    def _payload(self, payload: Payload, folder: str, placer: Placer) -> Value:
        entry = folder + payload.entry
        if payload.stub is not None:
            if isinstance(payload.stub, TensorStub):
                self.places[id(payload.stub.storage)] = placer.place
            return payload.stub
        if payload.entry.startswith(OPAQUE):
            return self._pickle(entry)
        if payload.entry.startswith(CUSTOM):
            return self._saved(entry, ScriptConstructors(), ScriptMachine)
        return self._saved(entry)

    def _pickle(self, entry: str) -> Value:
        """The value of a bare pickle."""
        data = self.archive.read(entry, MAX_PICKLE_BYTES)
        machine = Machine(data, TorchConstructors())
        self.machines.append(machine)
        self.size += len(data)
        return machine.run()

    def _saved(
        self, entry: str, constructors: TorchConstructors | None = None, machine: type[Machine] = Machine
    ) -> Value:
        """What an archive of torch.save leaves that is an entry of this one."""
        if entry not in self.archive.entries:
            raise CorruptFileError(f"the archive has no {entry!r}")
        span = self.archive.span(entry)
        if not span.length:
            return {}
        archive = ZipArchive(Window(span.file, span.offset, span.length))
        root = root_of(archive)
        if root is None:
            raise UnsupportedError(f"the entry {entry!r} is not a torch.save archive", hint="export it again")
        followed = follow(archive, root, "data", constructors, machine)
        self.machines.append(followed.machine)
        self.size += followed.size
        self.places |= dict.fromkeys(map(id, followed.storages), followed.placer.place)
        return followed.value

    def _saved_dict(self, entry: str) -> dict[str, Value]:
        saved = self._saved(entry)
        if not isinstance(saved, dict) or not all(type(name) is str for name in saved):
            raise CorruptFileError(f"the entry {entry!r} holds no dict of names")
        return saved

    def _look_at(self, entry: str) -> None:
        """Follow what torch unpickles besides; plain values and tensors are example inputs, and left out."""
        value = self._saved(entry)
        if _holds_objects(value):
            self.other[entry.removeprefix(self.root)] = value


def _merge(into: dict[str, Value], found: dict[str, Value], prefix: str) -> None:
    for name, value in found.items():
        if prefix + name in into:
            raise CorruptFileError(f"two tensors have the name {prefix + name!r}")
        into[prefix + name] = value


def _holds_objects(value: Value) -> bool:
    """Whether anything in it was not built."""
    waiting, seen = [value], set[int]()
    while waiting:
        value = waiting.pop()
        if isinstance(value, (UnbuiltObject, Global)):
            return True
        if isinstance(value, (dict, list, tuple, set, frozenset)) and id(value) not in seen:
            seen.add(id(value))
            waiting += [*value.keys(), *value.values()] if isinstance(value, dict) else list(value)
    return False
