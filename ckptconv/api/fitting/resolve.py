"""Resolves the architecture that ``--arch`` means, or that the evidence in and beside a file points to."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from ckptconv.api.evidence import config_beside, gather_evidence
from ckptconv.api.open import open
from ckptconv.arch import shortlist
from ckptconv.arch.bind import from_config, from_settings, from_statement
from ckptconv.arch.choose import ARCH_HINT, choose
from ckptconv.arch.load import library_names, load_spec
from ckptconv.arch.spec import Spec
from ckptconv.arch.statements import CLASS_NAME, CONFIG, Statement
from ckptconv.arch.table import Expected, Table
from ckptconv.core.tensor import infos_of
from ckptconv.core.text import listed
from ckptconv.edits.adapters.inside import NOT_MERGED, how_to_merge, is_inside
from ckptconv.edits.dialects.gguf_projectors import is_mmproj
from ckptconv.errors import UnknownClassError, UsageError
from ckptconv.formats.diffusers import DIFFUSERS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptconv.api.evidence import Evidence
    from ckptconv.api.request import Request
    from ckptconv.arch.bind import Source
    from ckptconv.arch.choose import Choice
    from ckptconv.arch.solver import Solution
    from ckptconv.checks.related_architecture import Differences
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.report import Finding
    from ckptconv.edits.adapters.summary import Summary


@dataclass(frozen=True, slots=True)
class Resolved:
    """An architecture: a spec whose params are still to be bound, or a table that is complete.

    wrapper:       a prefix that the checkpoint's names have and the spec's do not.
    strays:        the names in the checkpoint that lack that prefix.
    solution:      what the tensors with the prefix say about the params, if choosing the spec had to solve for them.
    quantized:     the method by which the weights are quantized, according to a file beside them; "" if none says so.
    unknown_class: what the file or the config.json says that it is, if the library lacks that and a similar spec was
                   chosen.
    """

    name: str
    evidence: str
    spec: Spec | None = None
    table: Table | None = None
    sources: tuple[Source, ...] = ()
    findings: tuple[Finding, ...] = field(default=())
    solution: Solution | None = None
    quantized: str = ""
    unknown_class: NamedClass | None = None
    wrapper: str = ""
    strays: frozenset[str] = frozenset()


def resolve(request: Request, checkpoint: Checkpoint) -> Resolved:
    """Find the architecture to compare the checkpoint with.

    Raises UsageError if the requested architecture does not exist, or if none is requested and no evidence names one.
    """
    arch, settings, evidence = request.arch, request.settings, gather_evidence(checkpoint, request.path)
    if arch is None:
        _refuse_non_models(request.path, checkpoint)
        return _resolve_by_evidence(request, evidence, checkpoint)
    if arch in library_names() or arch.endswith(".toml"):
        spec = load_spec(arch if arch in library_names() else Path(arch))
        sources = _param_sources(spec, checkpoint.notes.arch, evidence.statements, evidence.config, settings)
        return Resolved(
            spec.name, "--arch", spec, sources=sources, findings=evidence.findings,
            quantized=evidence.quantization_method,
        )  # fmt: skip
    from ckptconv.arch.factory import factory_table, is_reference  # few users ask for Python
    from ckptconv.arch.huggingface import ConfigFactory, is_config

    if is_reference(arch):
        table = factory_table(arch, evidence.statements, settings, infos_of(checkpoint))
        method = (ConfigFactory(Path(arch)).quantized or evidence.quantization_method) if is_config(arch) else ""
        return Resolved(table.spec.name, "--arch", table=table, quantized=method)
    if arch.endswith(".py"):
        raise UsageError(f"{arch!r} does not say which class of it is meant", hint=f"name it: {arch}:CLASS")
    if os.sep in arch or Path(arch).exists():
        table = _checkpoint_table(arch)
        if settings:
            raise UsageError(f"{arch!r} is a checkpoint, which has no params to set", hint="leave --set out")
        return Resolved(arch, "--arch", table=table)
    raise unknown_arch_error(
        arch, "a library name (ckptconv arch list), spec.toml, a checkpoint, config.json, or FILE.py:CLASS"
    )


def table_for(request: Request, checkpoint: Checkpoint) -> Table | None:
    """The names and shapes of the architecture with the checkpoint's params; None if the params remain unknown.

    Raises as `resolve` does.
    """
    from ckptconv.arch.solver import solve

    chosen = resolve(request, checkpoint)
    if chosen.table is not None:
        return chosen.table
    assert chosen.spec is not None
    return solve(chosen.spec, infos_of(checkpoint), chosen.sources).table


def _refuse_non_models(path: Path, checkpoint: Checkpoint) -> None:
    """Raise UsageError if the file says that it is something that no architecture describes."""
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
        raise UsageError(NOT_MERGED, path=path, hint=how_to_merge(checkpoint))


def _resolve_by_evidence(request: Request, evidence: Evidence, checkpoint: Checkpoint) -> Resolved:
    """The library spec that something in the file or beside it points to. Raises UsageError if nothing does."""
    path, settings = request.path, request.settings
    config, note = evidence.config, checkpoint.notes.arch
    infos = infos_of(checkpoint)
    try:
        choice = choose(infos, statements=evidence.statements, config=config, note=note)
    except UsageError as error:
        from ckptconv.api.editing.lora import summary_of  # imported late: most files are not adapters

        if (adapter := summary_of(checkpoint)) is not None:
            raise UsageError(
                f"this is an adapter{_kinds(adapter)} for another model: no architecture describes it",
                path=path, hint="ckptconv inspect shows what is in it; validate the model that it is for",
            ) from None  # fmt: skip
        named = named_by(config) or _gguf_architecture(checkpoint)
        raise (unknown_class_error(named, path) if named else error).at(path) from None
    # a configuration for another class may use the same keys with other meanings
    is_for_this_spec = choice.evidence != "names" or not named_by(config)
    sources = _param_sources(choice.spec, note, evidence.statements, config if is_for_this_spec else None, settings)
    return Resolved(
        choice.spec.name, choice.evidence, choice.spec, sources=sources,
        findings=(*evidence.findings, *choice.findings), solution=choice.solution,
        quantized=evidence.quantization_method, unknown_class=_unknown_class(choice, config, checkpoint),
        wrapper=choice.wrapper, strays=choice.strays,
    )  # fmt: skip


def _kinds(adapter: Summary) -> str:
    """What kinds of adapter it is, in brackets; "" if that is not known."""
    kinds = ", ".join(adapter.kinds) or (f"PEFT's type {adapter.peft[:80]}" if adapter.peft else "")
    return f" ({kinds})" if kinds else ""


class NamedClass(NamedTuple):
    """What a checkpoint is said to be: a class in transformers or diffusers, or an architecture in llama.cpp."""

    name: str
    by: Literal["transformers", "diffusers", "llama.cpp"]


def named_by(config: Mapping[str, object] | None) -> NamedClass | None:
    """The class that a configuration names, or its model type; None if it names neither."""
    config = config or {}
    classes = config.get("architectures")
    name = classes[0] if isinstance(classes, list) and classes else config.get("model_type", config.get(CLASS_NAME))
    by: Literal["transformers", "diffusers"] = "diffusers" if CLASS_NAME in config else "transformers"
    return NamedClass(name[:80], by) if isinstance(name, str) and name else None


def _gguf_architecture(checkpoint: Checkpoint, spec: Spec | None = None) -> NamedClass | None:
    """The architecture that a GGUF states, if the given spec does not cover it; without a spec, if the library does
    not. None if it is covered, or if nothing is known here about its names.
    """
    name = checkpoint.metadata.get("general.architecture")
    if not isinstance(name, str):
        return None
    from ckptconv.edits.dialects.gguf_table import architectures

    if name not in architectures():
        return None
    classes = architectures()[name].classes
    known = shortlist.mentioning_any(classes) if spec is None else set(classes) & set(spec.config.architectures)
    return None if known else NamedClass(name, "llama.cpp")


def _unknown_class(choice: Choice, config: Mapping[str, object] | None, checkpoint: Checkpoint) -> NamedClass | None:
    """What the checkpoint is said to be, if the chosen spec does not describe that."""
    named = named_by(config)
    if choice.evidence == "names":
        return named or _gguf_architecture(checkpoint, choice.spec)
    if choice.evidence != CONFIG or config is None or not config.get("architectures"):
        return None
    return named if named and named.name not in choice.spec.config.architectures else None


def unknown_class_error(named: NamedClass, path: Path, nearest: str = "") -> UsageError:
    """The error for a checkpoint that is said to be what the library lacks; `nearest` is the most similar spec."""
    misfit = f"; the nearest, {nearest}, does not fit" if nearest else ""
    compare_hint = f"; --arch {nearest} says what differs" if nearest else ""
    if named.by == "llama.cpp":
        message = f"its general.architecture says {named.name!r}, which the library does not have{misfit}"
        hint = "--arch MODEL/config.json, of the model that it was made of, builds its class with transformers"
        return UsageError(message, hint=hint + compare_hint)
    message = f"the config.json beside it says {named.name!r}, which the library does not have{misfit}"
    hint = f"--arch {shlex.quote(str(config_beside(path)))} builds that class, with the {named.by} that is installed"
    return UnknownClassError(message, name=named.name, by=named.by, nearest=nearest, hint=hint + compare_hint)


def built_otherwise_error(nearest: str, found: Differences) -> UsageError:
    """The error for names that resemble those of a spec, with differences that show another kind of network."""
    differences = (("has", found.more, ""), ("lacks", found.gone, ""), ("has", found.resized, " of other shapes"))
    ways = [f"{verb} {listed(kinds, 3)}{suffix}" for verb, kinds, suffix in differences if kinds]
    message = f"the nearest in the library, {nearest}, differs: this {', '.join(ways)}"
    hint = f"--arch {nearest} says what differs; {ARCH_HINT}"
    return UsageError(f"nothing says which architecture this is: {message}", hint=hint)


def unknown_arch_error(arch: str, otherwise: str) -> UsageError:
    """The error for a name that no spec has; its hint is the most similar name, or `otherwise`."""
    from difflib import get_close_matches

    near = get_close_matches(arch, library_names(), n=1, cutoff=0.65)
    return UsageError(f"there is no architecture {arch!r}", hint=f"did you mean {near[0]!r}?" if near else otherwise)


def _param_sources(
    spec: Spec,
    note: MetaNode,
    statements: Sequence[Statement],
    config: Mapping[str, object] | None,
    settings: Sequence[str],
) -> tuple[Source, ...]:
    """What is stated about the params outside of the tensors, the strongest first."""
    sources = [from_settings(spec, settings)]
    if isinstance(note, dict) and note.get("name") == spec.name and isinstance(note.get("params"), dict):
        sources.append(from_statement(spec, Statement("arch note", note["params"])))
    root, *others = statements
    complete = [statement for statement in others if statement.states_all(spec)]
    sources += [from_statement(spec, statement) for statement in (root, *complete)]
    if config is not None and spec.config.params:
        sources.append(from_config(spec, config))
    return tuple(sources)


def _checkpoint_table(path: str) -> Table:
    """The table of an architecture that is given as another checkpoint: its names, shapes and ties."""
    with open(path) as other:
        tied = other.tied_to
        tensors = {name: Expected(tensor.info.shape, tied_to=tied.get(name)) for name, tensor in other.items()}
    return Table(Spec(name=path), {}, tensors)
