"""Reader for TorchScript archives (torch.jit.save): a zip with the module's attributes and its compiled code.

    NAME/data.pkl          the module: an object of a class ``__torch__.…`` with its attributes as state, recursively
    NAME/data/KEY          the storages of its tensors
    NAME/constants.pkl     a tuple with what the code calls ``CONSTANTS.c0`` and so on
    NAME/constants/KEY     the storages of the constants
    NAME/code/….py         the code, which stays behind: never run, compiled or imported
    NAME/version, byteorder, traced_inputs.pkl, bytecode.pkl, extra/…

The pickles are in a dialect: REDUCE on an enum class has a bare value instead of a tuple of arguments; lists and dicts
are built by ``torch.jit._pickle.build_intlist`` and the like. Source: pickler.cpp and unpickler.cpp in
torch/csrc/jit/serialization.

The model's tensors are the parameters and buffers of each module, in the order and with the names of ``state_dict()``.
Which attributes these are is stated in the code (`script_classes`). A frozen module has neither: its weights are
constants, which are read as the model if there is nothing else, and named by their number. Other tensors among
constants and attributes are extras. Plain attributes belong to the graph that stays behind, and are shown with it.

Refused by name: archives from torch before 1.4, whose attributes are in ``model.json``.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ckptconv.core.metadata import Opaque, TorchValue
from ckptconv.core.notes import Program
from ckptconv.core.report import Finding
from ckptconv.errors import CkptconvError, CorruptFileError, LimitError, UnsupportedError
from ckptconv.formats.torch.containers.saved import check_small_records, follow, refuse_npz, root_of
from ckptconv.formats.torch.pickle import Budget, Global, Machine, UnbuiltObject
from ckptconv.formats.torch.programs.script_classes import ScriptClasses
from ckptconv.formats.torch.tree.assemble import assemble
from ckptconv.formats.torch.tree.build import build_tree, build_tree_around
from ckptconv.formats.torch.values.construct import TorchConstructors
from ckptconv.formats.torch.values.stubs import TensorStub
from ckptconv.io.limits import MAX_DEPTH
from ckptconv.io.zip import ZipArchive

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.formats.torch.pickle import Value
    from ckptconv.io.source import Source

PREFIX = "__torch__."


def claims(source: Source) -> bool:
    """Whether this is a zip archive with TorchScript's records."""
    try:
        archive = ZipArchive.of(source)
    except CkptconvError:
        return False
    old = root_of(archive, "model.json")  # a TensorFlow.js model has one as well
    return root_of(archive, "constants.pkl") is not None or (old is not None and f"{old}version" in archive.entries)


def read(source: Source) -> Checkpoint:
    """Open the archive. Reads its directory, its pickles and the code of its modules as text, but no tensor byte.

    Raises CorruptFileError, LimitError, UnsupportedError.
    """
    archive = ZipArchive.of(source)
    root = root_of(archive, "constants.pkl")
    if root is None:
        raise UnsupportedError(
            "this is a TorchScript archive of torch before 1.4",
            hint="torch.jit.save(torch.jit.load(FILE), NEW) makes one that is read",
        )
    check_small_records(archive, root)
    refuse_npz(archive, source)
    if root + "data.pkl" not in archive.entries:
        raise CorruptFileError("the archive has no data.pkl")
    data, constants = (
        follow(archive, root, name, ScriptConstructors(), ScriptMachine) for name in ("data", "constants")
    )
    if not isinstance(data.value, UnbuiltObject):
        raise UnsupportedError("the archive holds no module", hint="save a module, or its state_dict")
    budget = Budget(data.size + constants.size)
    modules = _Modules(ScriptClasses(archive, root), budget)
    modules.visit(data.value, "", 1)
    rest = modules.sort(constants.value)
    tree = build_tree_around(modules.tensors, rest, budget)
    places = {id(key): pickled.placer.place for pickled in (data, constants) for key in pickled.storages}

    def place(name: str, stub: TensorStub) -> LazyTensor:
        return places[id(stub.storage)](name, stub)

    found = assemble(
        tree, place, budget, format="torchscript", machines=[data.machine, constants.machine], file=source,
        graph=modules.graph(archive, root), findings=modules.findings(), own=_is_own,
    )  # fmt: skip
    if reached := modules.classes.reached_by_loading():
        run = Program(f"{root}code", Opaque("__setstate__", "called", (reached,)), "torch.jit.load")
        found.notes = replace(found.notes, programs=(*found.notes.programs, run))
    return found


class ScriptMachine(Machine):
    """A machine that accepts a bare value as the arguments of an enum class, as TorchScript writes it."""

    def _op_REDUCE(self) -> None:
        function = self._stack[-2]
        if type(self._stack[-1]) is not tuple and type(function) is Global and _is_script(function):
            self._stack[-1] = (self._stack[-1],)
        Machine._op_REDUCE(self)


def _is_script(name: Global) -> bool:
    return f"{name.module}.".startswith(PREFIX)


def _is_own(name: str) -> bool:
    """Whether a name is of the archive's own modules, or a helper of TorchScript's pickles."""
    return name.startswith((PREFIX, "torch.jit._pickle."))


def _as_list(values: Value) -> Value:
    if not isinstance(values, list):
        raise TypeError("a list is built from something that is not a list")
    return values


_BY_NAME: dict[str, Callable[..., Value]] = {
    "restore_type_tag": lambda value, kind: value,
    **{f"build_{kind}list": _as_list for kind in ("int", "double", "bool", "tensor")},
}


@dataclass(slots=True)
class ScriptConstructors(TorchConstructors):
    """What these pickles may build in addition: typed lists and dicts, and objects of the archive's own classes, as
    data.
    """

    def constructor(self, name: Global) -> Callable[..., Value] | None:
        if name.module == "torch.jit._pickle" and name.name in _BY_NAME:
            return _BY_NAME[name.name]
        return TorchConstructors.constructor(self, name)

    def is_harmless(self, name: Global, args: tuple[Value, ...]) -> bool:
        return _is_script(name) or TorchConstructors.is_harmless(self, name, args)


@dataclass(slots=True)
class _Modules:
    """Collects the contents of all modules.

    tensors:    parameters and buffers, by name.
    attributes: other attributes that hold more than plain values, by name.
    plain:      plain attributes, by name.
    names:      the class of each module.
    guessed:    modules whose class does not say which attributes are parameters or buffers.
    frozen:     whether the tensors are constants.
    """

    classes: ScriptClasses
    budget: Budget
    tensors: OrderedDict[str, Value] = field(default_factory=OrderedDict)
    attributes: dict[str, Value] = field(default_factory=dict)
    plain: dict[str, Value] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    guessed: list[str] = field(default_factory=list)
    frozen: bool = False

    def sort(self, constants: Value) -> dict[Value, Value]:
        """Make the constants the model's tensors if there are no others; what remains beside the model."""
        rest = {"attributes": self.attributes, "constants": constants}
        if not self.tensors and isinstance(constants, (tuple, list)):
            found = {str(i): value for i, value in enumerate(constants)}
            tensors = {key: value for key, value in found.items() if isinstance(value, TensorStub)}
            self.frozen = bool(tensors)
            self.tensors.update({f"constants.{key}": value for key, value in tensors.items()})
            rest["constants"] = {key: value for key, value in found.items() if key not in tensors}
        return {key: part for key, part in rest.items() if part}

    def visit(self, module: UnbuiltObject, name: str, depth: int) -> None:
        """Collect a module's attributes: its own tensors first, then its submodules."""
        if depth > MAX_DEPTH:
            raise LimitError(f"modules are nested deeper than {MAX_DEPTH} levels")
        self.names[name] = module.name
        state = module.state if isinstance(module.state, dict) else {"state": module.state}  # as __getstate__ made it
        if not all(type(key) is str for key in state):
            raise CorruptFileError(f"the module {name!r} has an attribute without a name")
        self.budget.take(1 + len(state))
        prefix = f"{name}." if name else ""
        parameters, buffers = self._tensors_of(module, state, name)
        for key in parameters:
            self._add(self.tensors, prefix + key, replace(state[key], parameter=True))
        for key in buffers:
            self._add(self.tensors, prefix + key, state[key])
        for key, value in state.items():
            if key in parameters or key in buffers:
                continue
            if isinstance(value, UnbuiltObject) and self._is_module(value):
                self.visit(value, f"{prefix}{key}", depth + 1)
            else:
                self._add(self.attributes if _is_more_than_plain(value) else self.plain, f"{prefix}{key}", value)

    def _add(self, found: dict[str, Value], name: str, value: Value) -> None:
        if name in found:
            raise CorruptFileError(f"two attributes have the name {name!r}", hint="do not trust it")
        found[name] = value

    def _tensors_of(self, module: UnbuiltObject, state: dict[str, Value], name: str) -> tuple[list[str], list[str]]:
        """The attributes that are parameters, and those that are buffers; a guess if the code does not say."""
        tensors = [key for key, value in state.items() if isinstance(value, TensorStub)]
        found = self.classes.find(module.name)
        if found is None:
            if tensors:
                self.guessed.append(name)
            return [key for key in tensors if state[key].requires_grad], [
                key for key in tensors if not state[key].requires_grad
            ]
        parameters = [key for key in tensors if key in found.parameters]
        buffers = [key for key in tensors if key not in found.parameters and found.is_buffer(key)]
        if found.buffers is None and buffers:
            self.guessed.append(name)
        return parameters, buffers

    def _is_module(self, obj: UnbuiltObject) -> bool:
        if obj.how != "object" or not obj.name.startswith(PREFIX):
            return False
        found = self.classes.find(obj.name)
        return found.is_module if found is not None else isinstance(obj.state, dict)

    def graph(self, archive: ZipArchive, root: str) -> MetaNode:
        """What `inspect` shows of the code that stays behind."""
        code = [name.removeprefix(root) for name in archive.entries if name.startswith(root + "code/")]
        found = {
            "name": self.names[""],
            "producer": "TorchScript",
            "code": [name for name in code if name.endswith(".py")],
            "classes": dict(self.names),
            "attributes": build_tree(self.plain, self.budget).root,
        }
        return {key: value for key, value in found.items() if value}

    def findings(self) -> tuple[Finding, ...]:
        """Findings that the code stays behind, and which modules were guessed."""
        what = "constants" if self.frozen else "parameters and buffers"
        found = [Finding("graph", "info", "", f"the TorchScript code stays behind: its {what} are read")]
        for name in self.guessed:
            message = (
                f"the code does not say which attributes of {name or 'the module'!r} are parameters and buffers: "
                "all of its tensors are taken"
            )
            found.append(Finding("guessed", "warning", name, message))
        if self.frozen:
            message = "the module has no parameters, as a frozen one: its constants, which have no names, are numbered"
            found.append(Finding("frozen", "warning", "", message))
        return tuple(found)


_PLAIN = (bool, int, float, complex, str, bytes, type(None), TorchValue)


def _is_more_than_plain(value: Value) -> bool:
    """Whether there is a tensor or an object anywhere in a value."""
    waiting, seen = [value], set[int]()
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, _PLAIN) or id(inner) in seen:
            continue
        seen.add(id(inner))
        match inner:
            case dict():
                waiting += [*inner.keys(), *inner.values()]
            case list() | tuple() | set() | frozenset():
                waiting += list(inner)
            case _:
                return True
    return False
