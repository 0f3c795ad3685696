"""`architectures`, `architecture`, `infer_architecture`: the library's specs, and new ones from checkpoints.

`ckptconv.arch` is imported when it is needed: that takes as long as the rest of a small conversion.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from os import fspath
from pathlib import Path
from typing import TYPE_CHECKING

from ckptconv.api.open import open
from ckptconv.api.request import as_tuple
from ckptconv.core.tensor import infos_of
from ckptconv.errors import UsageError
from ckptconv.io.target import Target

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptconv.api.open import PathText
    from ckptconv.arch.spec import Param, ParamValue, Spec
    from ckptconv.arch.table import Table
    from ckptconv.core.spelling import Json


@dataclass(frozen=True, slots=True)
class Architecture:
    """An architecture spec, and a model's tensors once all required params have values.

    table: every tensor by name, with its shape and ties, and whether it is optional; None while params are missing.
    """

    spec: Spec
    table: Table | None = None

    @property
    def missing(self) -> list[str]:
        """The required params that have no value."""
        return [] if self.table else self.spec.required

    @property
    def params(self) -> Mapping[str, ParamValue]:
        """The values that the table was made with, including defaults."""
        return self.table.params if self.table else {}

    def to_dict(self) -> dict[str, Json]:
        """The architecture as ``arch show --json`` prints it."""
        document: dict[str, Json] = {
            "name": self.spec.name,
            "summary": self.spec.summary,
            "digest": self.spec.digest,
            "params": [_param_to_dict(param) for param in self.spec.params.values()],
            "variants": dict(self.spec.variants),
            "forward": self.spec.forward is not None,
            "constraints": {entry.name: entry.formula.text for entry in self.spec.constraints},
        }
        if self.table is None:
            return document
        tensors = [
            {
                "name": name,
                "shape": list(entry.shape),
                "optional": entry.optional,
                "tied_to": entry.tied_to,
                "dtypes": None if entry.dtypes is None else sorted(entry.dtypes),
            }
            for name, entry in self.table.tensors.items()
        ]
        findings = [finding.to_dict() for finding in self.table.findings]
        return document | {"values": dict(self.table.params), "tensors": tensors, "findings": findings}


@dataclass(frozen=True, slots=True)
class Inferred:
    """A spec that was inferred from checkpoints.

    text:    the spec as TOML.
    sources: the checkpoints.
    target:  the file that the spec was written to, if any.
    """

    spec: Spec
    text: str
    sources: list[Path] = field(default_factory=list)
    target: Path | None = None

    def to_dict(self) -> dict[str, Json]:
        """The spec as ``arch infer --json`` prints it."""
        return {
            "name": self.spec.name,
            "sources": [str(path) for path in self.sources],
            "target": None if self.target is None else str(self.target),
            "params": [_param_to_dict(param) for param in self.spec.params.values()],
            "toml": self.text,
        }


def _param_to_dict(param: Param) -> dict[str, Json]:
    default = param.literal if param.default is None else param.default.text
    return {
        "name": param.name,
        "type": param.type,
        "required": param.required,
        "default": default,
        "choices": None if param.choices is None else list(param.choices),
        "aliases": list(param.aliases),
        "summary": param.summary,
    }


def architectures() -> list[Architecture]:
    """The specs that ship with ckptconv, sorted by name. Reads all of them."""
    from ckptconv.arch.load import library_names, load_spec

    return [Architecture(load_spec(name)) for name in library_names()]


def architecture(name: PathText, *, settings: Sequence[str] = ()) -> Architecture:
    """Load a library spec by its name, or a spec file (``"my.toml"``). With `settings`, also list the model's tensors.

    settings: ``"name=value"`` for each required param; or none at all.

    Raises UsageError for a name, a param or a value that does not exist, and CorruptFileError for a malformed spec.
    """
    from ckptconv.arch.bind import from_settings
    from ckptconv.arch.load import load_spec
    from ckptconv.arch.table import expand

    spec = load_spec(_library_name_or_path(name))
    values = from_settings(spec, as_tuple(settings)).values
    missing = [param for param in spec.required if param not in values]
    if missing and settings:
        hint = " ".join(f"--set {param}=VALUE" for param in missing)
        raise UsageError(f"{spec.name!r} needs a value for {', '.join(missing)}", hint=hint)
    return Architecture(spec, None if missing else expand(spec, values))


def _library_name_or_path(name: PathText) -> str | Path:
    from ckptconv.api.fitting.resolve import unknown_arch_error
    from ckptconv.arch.load import library_names

    if isinstance(name, str) and name in library_names():
        return name
    if Path(name).suffix == ".toml":
        return Path(name)
    raise unknown_arch_error(str(name), "a library name (ckptconv arch list) or a spec file, my.toml")


def infer_architecture(
    paths: Sequence[PathText], *, target: PathText | None = None, force: bool = False, format: str | None = None
) -> Inferred:
    """Infer a spec that all of these checkpoints fit. Give it two or more sizes of one family if you can.

    target: a file for the spec, written atomically; `force` replaces an existing one. Its stem becomes the spec's name.
    format: overrides what the bytes of each checkpoint say.

    Reads only headers. Raises UsageError, UnsupportedError if no rule describes these checkpoints, TargetExistsError.
    """
    from ckptconv.api.evidence import refuse_optimizer_state
    from ckptconv.arch.infer import infer
    from ckptconv.arch.load import parse_text

    if target is not None and Path(target).suffix != ".toml":
        raise UsageError(
            f"a spec is known by its suffix, .toml, which {fspath(target)!r} lacks",
            hint=f"-o {shlex.quote(fspath(target) + '.toml')}",
        )
    output = None if target is None else Target(target, replace=force)
    tensors = []
    for path in paths:
        with open(path, format=format) as checkpoint:
            refuse_optimizer_state(checkpoint, Path(path), "infer the spec from the model's own file")
            tensors.append(infos_of(checkpoint))
    stem = "" if target is None else Path(target).stem
    name = stem if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", stem) else "inferred"
    text = infer(tensors, name=name)
    if output is not None:
        output.write_whole(text.encode("utf-8"))
    return Inferred(parse_text(text), text, [Path(path) for path in paths], None if target is None else Path(target))
