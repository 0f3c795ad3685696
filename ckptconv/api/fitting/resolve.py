"""Which architecture ``--arch`` means, or the evidence in and beside a file."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from ckptconv.api.open import open
from ckptconv.api.stated import config_beside, stated
from ckptconv.arch import shortlist
from ckptconv.arch.bind import from_config, from_settings, from_statement
from ckptconv.arch.choose import ARCH_HINT, choose
from ckptconv.arch.load import library_names, load_spec
from ckptconv.arch.spec import Spec
from ckptconv.arch.statements import CLASS_NAME, CONFIG, Statement
from ckptconv.arch.table import Expected, Table
from ckptconv.core.tensor import infos_of
from ckptconv.core.text import listed
from ckptconv.edits.adapters.inside import WHAT, how_to_merge, is_inside
from ckptconv.edits.adapters.names import is_adapter
from ckptconv.edits.dialects.gguf_projectors import is_mmproj
from ckptconv.errors import UnknownClassError, UsageError
from ckptconv.formats.diffusers import DIFFUSERS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptconv.api.request import Request
    from ckptconv.api.stated import Stated
    from ckptconv.arch.bind import Source
    from ckptconv.arch.choose import Choice
    from ckptconv.arch.solver import Solution
    from ckptconv.checks.kin import Differences
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.report import Finding


@dataclass(frozen=True, slots=True)
class Resolved:
    """An architecture: a spec whose params are still to be bound, or a table that is known already.

    wrapper:   a prefix that the names have and the spec does not. strays: names beside those that have it.
    solution:  what the tensors alone say about the params without these, where choosing the spec had to solve for them.
    quantized: how the weights are, by the config.json beside them; "" where it says nothing of that.
    stranger:  what the file or the config.json says that it is, where the library lacks it and a kin of it was chosen.
    """

    name: str
    evidence: str
    spec: Spec | None = None
    table: Table | None = None
    sources: tuple[Source, ...] = ()
    findings: tuple[Finding, ...] = field(default=())
    solution: Solution | None = None
    quantized: str = ""
    stranger: Named | None = None
    wrapper: str = ""
    strays: frozenset[str] = frozenset()


def resolve(request: Request, checkpoint: Checkpoint) -> Resolved:
    """What to compare the checkpoint with.

    Raises UsageError where the request's architecture is none, or where it names none and no evidence does.
    """
    arch, settings, said = request.arch, request.settings, stated(checkpoint, request.path)
    if arch is None:
        _refuse_what_is_no_model(request.path, checkpoint)
        return _by_evidence(request, said, checkpoint)
    if arch in library_names() or arch.endswith(".toml"):
        spec = load_spec(arch if arch in library_names() else Path(arch))
        sources = _sources(spec, checkpoint.notes.arch, said.statements, said.config, settings)
        return Resolved(spec.name, "--arch", spec, sources=sources, findings=said.findings, quantized=said.quantized)
    from ckptconv.arch.factory import factory_table, is_reference  # few ask for Python
    from ckptconv.arch.huggingface import ConfigFactory, is_config

    if is_reference(arch):
        infos = infos_of(checkpoint)
        table = factory_table(arch, said.statements, settings, infos)
        method = (ConfigFactory(Path(arch)).quantized or said.quantized) if is_config(arch) else ""
        return Resolved(table.spec.name, "--arch", table=table, quantized=method)
    if arch.endswith(".py"):
        raise UsageError(f"{arch!r} does not say which class of it is meant", hint=f"name it: {arch}:CLASS")
    if os.sep in arch or Path(arch).exists():
        table = _table_of(arch)
        if settings:
            raise UsageError(f"{arch!r} is a checkpoint, which has no params to set", hint="leave --set out")
        return Resolved(arch, "--arch", table=table)
    raise unknown(arch, "a library name (ckptconv arch list), spec.toml, a checkpoint, config.json, or FILE.py:CLASS")


def table_for(request: Request, checkpoint: Checkpoint) -> Table | None:
    """The names and shapes that the architecture has with the checkpoint's params; None where nothing binds these.
    Raises as `resolve`.
    """
    from ckptconv.arch.solver import solve

    chosen = resolve(request, checkpoint)
    if chosen.table is not None:
        return chosen.table
    assert chosen.spec is not None
    return solve(chosen.spec, infos_of(checkpoint), chosen.sources).table


def _refuse_what_is_no_model(path: Path, checkpoint: Checkpoint) -> None:
    """Raise UsageError for what no architecture describes, by what the file says that it is."""
    if checkpoint.format == DIFFUSERS.name:
        parts = dict.fromkeys(name.partition(".")[0] for name in checkpoint)
        line = shlex.join(["ckptconv", "validate", *(str(path / part) for part in parts)])
        raise UsageError("this is a pipeline of several models", path=path, hint=line)
    if is_mmproj(checkpoint.metadata):
        raise UsageError(
            "this is what llama.cpp has for pictures or sounds beside a language model (mmproj), which no "
            "architecture describes", path=path,
            hint="ckptconv inspect shows what is in it; validate the model that it was made from",
        )  # fmt: skip
    if is_inside(checkpoint):
        raise UsageError(WHAT, path=path, hint=how_to_merge(checkpoint))


def _by_evidence(request: Request, said: Stated, checkpoint: Checkpoint) -> Resolved:
    """The spec of the library that something in the file or beside it names. Raises UsageError where nothing does."""
    path, settings = request.path, request.settings
    config, note = said.config, checkpoint.notes.arch
    infos = infos_of(checkpoint)
    try:
        choice = choose(infos, statements=said.statements, config=config, note=note)
    except UsageError as error:
        if is_adapter(infos):
            raise UsageError(
                "this is an adapter (LoRA): changes to another model's weights, which no architecture describes",
                path=path, hint="ckptconv inspect shows what is in it; validate the model that it is for",
            ) from None  # fmt: skip
        named = named_by(config) or _named_by_llama_cpp(checkpoint)
        raise (stranger(named, path) if named else error).at(path) from None
    named = _stranger(choice, config, checkpoint)
    # by the same words another architecture's configuration means something else
    its_own = config if choice.evidence != "names" or not named_by(config) else None
    sources = _sources(choice.spec, note, said.statements, its_own, settings)
    return Resolved(
        choice.spec.name, choice.evidence, choice.spec, sources=sources, findings=(*said.findings, *choice.findings),
        solution=choice.solution, quantized=said.quantized, stranger=named,
        wrapper=choice.wrapper, strays=choice.strays,
    )  # fmt: skip


class Named(NamedTuple):
    """What a checkpoint is said to be: a class of transformers' or diffusers', an architecture of llama.cpp's."""

    name: str
    by: Literal["transformers", "diffusers", "llama.cpp"]


def named_by(config: Mapping[str, object] | None) -> Named | None:
    """The class that a configuration names, or its type; None where it says neither."""
    config = config or {}
    named = config.get("architectures")
    first = named[0] if isinstance(named, list) and named else config.get("model_type", config.get(CLASS_NAME))
    by: Literal["transformers", "diffusers"] = "diffusers" if CLASS_NAME in config else "transformers"
    return Named(first[:80], by) if isinstance(first, str) and first else None


def _named_by_llama_cpp(checkpoint: Checkpoint, spec: Spec | None = None) -> Named | None:
    """The architecture that a GGUF says it is of; None where it says none whose names are known here, or the spec, or
    the library where that is not given, has one of the classes that llama.cpp makes it of.
    """
    name = checkpoint.metadata.get("general.architecture")
    if not isinstance(name, str):
        return None
    from ckptconv.edits.dialects.gguf_table import architectures

    if name not in architectures():
        return None
    classes = architectures()[name].classes
    known = shortlist.by_any(classes) if spec is None else set(classes) & set(spec.config.architectures)
    return None if known else Named(name, "llama.cpp")


def _stranger(choice: Choice, config: Mapping[str, object] | None, checkpoint: Checkpoint) -> Named | None:
    """What the checkpoint is said to be, where the chosen spec describes no such."""
    named = named_by(config)
    if choice.evidence == "names":
        return named or _named_by_llama_cpp(checkpoint, choice.spec)
    stated = choice.evidence == CONFIG and config is not None and config.get("architectures")
    return named if stated and named and named.name not in choice.spec.config.architectures else None


def stranger(named: Named, path: Path, nearest: str = "") -> UsageError:
    """The error for a checkpoint that is said to be what the library lacks; `nearest` is a spec that is like it."""
    less = f"; the nearest, {nearest}, does not fit" if nearest else ""
    more = f"; --arch {nearest} says what differs" if nearest else ""
    where = "the config.json beside it"
    hint = f"--arch {shlex.quote(str(config_beside(path)))} builds that class, with the {named.by} that is installed"
    if named.by == "llama.cpp":
        where = "its general.architecture"
        hint = "--arch MODEL/config.json, of the model that it was made of, builds its class with transformers"
    message = f"{where} says {named.name!r}, which the library does not have{less}"
    if named.by == "llama.cpp":
        return UsageError(message, hint=hint + more)
    return UnknownClassError(message, name=named.name, by=named.by, nearest=nearest, hint=hint + more)


def kin(nearest: str, found: Differences) -> UsageError:
    """The error where the names are like those of a spec, but for what says that the network is built otherwise."""
    said = (("has", found.more, ""), ("lacks", found.gone, ""), ("has", found.resized, " of other shapes"))
    ways = [f"{word} {listed(kinds, 3)}{more}" for word, kinds, more in said if kinds]
    message = f"the nearest in the library, {nearest}, differs: this {', '.join(ways)}"
    hint = f"--arch {nearest} says what differs; {ARCH_HINT}"
    return UsageError(f"nothing says which architecture this is: {message}", hint=hint)


def unknown(arch: str, otherwise: str) -> UsageError:
    """The error for a name that no spec has, with the nearest that one has as its hint."""
    from difflib import get_close_matches

    near = get_close_matches(arch, library_names(), n=1, cutoff=0.65)
    return UsageError(f"there is no architecture {arch!r}", hint=f"did you mean {near[0]!r}?" if near else otherwise)


def _sources(
    spec: Spec,
    note: MetaNode,
    statements: Sequence[Statement],
    config: Mapping[str, object] | None,
    settings: Sequence[str],
) -> tuple[Source, ...]:
    """What is said about the params outside of the tensors, the strongest first."""
    sources = [from_settings(spec, settings)]
    if isinstance(note, dict) and note.get("name") == spec.name and isinstance(note.get("params"), dict):
        sources.append(from_statement(spec, Statement("arch note", note["params"])))
    root, *kept = statements
    sources += [from_statement(spec, each) for each in (root, *(one for one in kept if one.states_all(spec)))]
    if config is not None and spec.config.params:
        sources.append(from_config(spec, config))
    return tuple(sources)


def _table_of(path: str) -> Table:
    """Another checkpoint's names, shapes and ties as the architecture."""
    with open(path) as other:
        tied = other.tied_to
        tensors = {name: Expected(tensor.info.shape, tied_to=tied.get(name)) for name, tensor in other.items()}
    return Table(Spec(name=path), {}, tensors)
