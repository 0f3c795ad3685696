"""Decides which library spec a checkpoint is of, by evidence: the strongest first, and never by which spec happens to
fit.

1. the arch that is noted in the file
2. a config.json beside it: its model_type and architectures, or its _class_name
3. the metadata's keys: a spec whose required params are all stated, under their names at the root; or, if the tensors'
   names are that spec's too, under other names, in settings below the root, or in a config.json of no known type
4. the names: the only spec that has most of them in common, and at least half; very few names, which many networks
   have, must all be in common. Of several specs with the same names, the one with the same shapes

A checkpoint that was saved from a wrapper has a prefix on every name (``module.``), so names are compared with and
without it. If no spec fits then, and all names have the same first part (``net.``), or all except a few vectors and
numbers (``loss.weight``), they are compared without that, and the exceptions are reported as strays. torch's
AveragedModel (``n_averaged``) is recognised at any size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptconv.arch import shortlist
from ckptconv.arch.bind import is_for
from ckptconv.arch.evaluate import MAX_STEPS, Allowance
from ckptconv.arch.load import library_names, load_spec
from ckptconv.arch.rating import ENOUGH, Rated, Rater, overlap
from ckptconv.arch.solver import errors, solve
from ckptconv.arch.statements import CLASS_NAME, CONFIG, PARAMS
from ckptconv.core.names import module_of
from ckptconv.core.report import Finding
from ckptconv.core.text import quoted
from ckptconv.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.arch.solver import Solution
    from ckptconv.arch.spec import Spec
    from ckptconv.arch.statements import Statement
    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.tensor import TensorInfo

STEPS = MAX_STEPS
"""The most steps for working out which spec has the names. Qwen3-235B, with 37,000 tensors, takes 1.4 million."""

WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes of torch's DataParallel and DistributedDataParallel, and of torch.compile."""

AVERAGED = "n_averaged"
"""What torch.optim.swa_utils.AveragedModel has beside the network, which is its `module`."""

MOST_PARTS = 4
"""The most parts of a prefix."""

FEW = 4
"""With fewer tensors, a spec must have all of their names and no others, and none is mentioned as the nearest: many
files have an embedding.weight, or a single layer.
"""

ARCH_HINT = (
    "--arch takes a name (ckptconv arch list), a SPEC.toml (ckptconv arch infer writes one), another checkpoint, a "
    "config.json, or your own class (FILE.py:CLASS)"
)

SURE = 20
"""With fewer tensors under a prefix, no strays are allowed: a larger network may start with a small one."""

STRAYS = 3
"""The most names that may stand beside those under a prefix."""

SOME = 0.1
"""With a smaller share of names in common, keys at the root that are other names of params mean another network."""

NEAR = 0.25
"""The share of names from which on the nearest spec is mentioned when none fits."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A spec, and why it was chosen.

    evidence: "arch note", "config.json", "params.json", "metadata" or "names".
    wrapper:  the prefix that all names except the strays have and the spec's names do not; usually "".
    strays:   names beside those with the wrapper's prefix.
    overlap:  the share of names in common, if that was the evidence.
    solution: the params by the tensors alone, without the wrapper and the strays, if they were solved for.
    """

    spec: Spec
    evidence: str
    wrapper: str = ""
    strays: frozenset[str] = frozenset()
    overlap: float | None = None
    findings: tuple[Finding, ...] = ()
    solution: Solution | None = None


def choose(
    tensors: Mapping[str, TensorInfo],
    *,
    statements: Sequence[Statement] = (),
    config: Mapping[str, object] | None = None,
    note: MetaNode = None,
) -> Choice:
    """The library spec that the evidence names. Raises UsageError if there is none.

    statements: what the metadata says, its root first, and what else is beside it.
    note:       the file's arch note, ``{"name": …, "params": {…}, "digest": …}``.
    """
    noted, findings = _by_note(note)
    if noted is not None:
        return Choice(noted, "arch note", find_wrapper(noted, tensors), findings=findings)
    for evidence, specs in (("config.json", _by_config(config)), _by_statements(statements, tensors)):
        if specs:
            rated = Rater(tensors, Allowance(STEPS)).rate(specs) if len(specs) > 1 else []
            spec = rated[0].spec if rated else specs[0]
            return Choice(spec, evidence, find_wrapper(spec, tensors), findings=findings)
    return _by_names(tensors, findings)


def _by_note(note: MetaNode) -> tuple[Spec | None, tuple[Finding, ...]]:
    if not isinstance(note, Mapping) or not isinstance(note.get("name"), str):
        return None, ()
    name = note["name"]
    if name not in library_names():
        message = f"the file notes the architecture {name!r}, which is not in the library"
        return None, (Finding("arch-note", "info", "", message, None, str(name)),)
    spec = load_spec(str(name))
    digest = note.get("digest")
    if not isinstance(digest, str) or digest == spec.digest:
        return spec, ()
    message = f"the file notes another version of the architecture {name!r}"
    return spec, (Finding("arch-note", "info", "", message, spec.digest, digest),)


def _by_config(config: Mapping[str, object] | None) -> list[Spec]:
    if config is None:
        return []
    architectures = config.get("architectures")
    named = set(architectures) if isinstance(architectures, list) and all(map(_is_text, architectures)) else set()
    if isinstance(config.get(CLASS_NAME), str):
        named.add(config[CLASS_NAME])
    kind = config.get("model_type")
    mentioning = shortlist.mentioning_any([*named, *([kind] if _is_text(kind) else [])])
    specs = [spec for spec in map(load_spec, mentioning) if is_for(spec, config)]
    by_class = [spec for spec in specs if named & set(spec.config.architectures)]
    return by_class or [spec for spec in specs if kind in spec.config.model_types]


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _by_statements(statements: Sequence[Statement], tensors: Mapping[str, TensorInfo]) -> tuple[str, list[Spec]]:
    """The kind of evidence, and the specs, of the first statement that names any."""
    for i, statement in enumerate(statements):
        specs = [
            spec
            for spec in _specs_stated_by(statement)
            if (i == 0 and statement.values.keys() >= set(spec.required))
            or _share_of_names(spec, tensors) >= (ENOUGH if i else SOME)
        ]
        if specs:
            return statement.name if statement.name in (CONFIG, PARAMS) else "metadata", specs
    return "metadata", []


def _specs_stated_by(statement: Statement) -> list[Spec]:
    """The specs with the most required params, among those whose required params are all stated."""
    specs = [load_spec(name) for name in shortlist.mentioning_any(statement.values)] if statement.values else []
    stated = [spec for spec in specs if statement.states_all(spec)]
    most = max((len(spec.required) for spec in stated), default=0)
    return [spec for spec in stated if len(spec.required) == most]


def _share_of_names(spec: Spec, tensors: Mapping[str, TensorInfo]) -> float:
    """The share of names in common with the spec, also behind a wrapper's prefix."""
    bare = unwrapped(tensors, find_wrapper(spec, tensors))
    return overlap(solve(spec, bare), bare)


def _by_names(tensors: Mapping[str, TensorInfo], findings: tuple[Finding, ...]) -> Choice:
    if averaged := _inside_averaged(tensors):
        return replace(_by_names(averaged, findings), strays=frozenset({AVERAGED}))
    allowance = Allowance(STEPS)
    raters = _Raters(tensors, allowance)
    ranked, wrapper = raters.rank(_wrappers(tensors))
    enough = ENOUGH if len(tensors) >= FEW else 1.0
    if not ranked or ranked[0].share < enough:  # a network inside a larger class, which was saved whole
        ranked, wrapper = raters.rank(_first_parts(tensors))
    inner, strays = raters, frozenset[str]()
    if not ranked or ranked[0].share < enough:
        strays, enough = _strays(tensors), 1.0
        rest = {name: info for name, info in tensors.items() if name not in strays}
        inner = _Raters(rest, allowance)
        ranked, wrapper = inner.rank(_first_parts(rest)) if strays else ([], "")
    if not ranked or ranked[0].share < enough:
        raise _no_spec_error(raters.without(""))
    best = [rated for rated in ranked if rated.share == ranked[0].share]
    names = {rated.spec.name for rated in best}
    left = [rated for rated in best if not names & set(rated.spec.yields_to)]
    if len(left) == 1:
        names |= set(left[0].spec.mistaken_for)
    if len(left) != 1 or left[0].spec.mistaken_for:
        raise UsageError(
            f"the names fit several architectures: {', '.join(sorted(names))}", hint="name one with --arch"
        )
    share, spec, solution = _by_shapes(left[0], inner.without(wrapper))
    return Choice(spec, "names", wrapper, strays, share, findings, solution)


def _by_shapes(likeliest: Rated, rater: Rater) -> Rated:
    """The likeliest spec, or if its shapes do not fit, the only one with the same names that yields to it and whose
    shapes do.
    """
    if not errors(likeliest.solution, rater.tensors):
        return likeliest
    yielding = [spec for spec in rater.likely() if likeliest.spec.name in spec.yields_to]
    fitting = [
        rated
        for rated in map(rater.solved, yielding)
        if rated is not None and rated.share >= likeliest.share and not errors(rated.solution, rater.tensors)
    ]
    return fitting[0] if len(fitting) == 1 else likeliest


class _Raters:
    """A rater for the tensors, and for the same without each prefix that is asked for."""

    def __init__(self, tensors: Mapping[str, TensorInfo], allowance: Allowance) -> None:
        self._tensors, self._allowance = tensors, allowance
        self._by_prefix: dict[str, Rater] = {}

    def without(self, prefix: str) -> Rater:
        if prefix not in self._by_prefix:
            self._by_prefix[prefix] = Rater(unwrapped(self._tensors, prefix), self._allowance)
        return self._by_prefix[prefix]

    def rank(self, prefixes: Sequence[str]) -> tuple[list[Rated], str]:
        """The most likely specs, best first, and the prefix, if any, without which most names are in common."""
        ranked, wrapper = self.without("").best(), ""
        for prefix in prefixes:
            inner = self.without(prefix).best()
            if inner and (not ranked or inner[0].share > ranked[0].share):
                ranked, wrapper = inner, prefix
        return ranked, wrapper


def _first_parts(tensors: Mapping[str, TensorInfo]) -> list[str]:
    """What all names start with, up to a dot (``net.``, as in a LightningModule): one part, two, …; may be empty."""
    found: list[str] = []
    while len(found) < MOST_PARTS:
        prefix = found[-1] if found else ""
        parts = {name[len(prefix) :].partition(".")[:2] for name in tensors}
        first, dot = next(iter(parts), ("", ""))
        if len(parts) != 1 or not dot:
            break
        found.append(f"{prefix}{first}.")
    return found


def _inside_averaged(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """The network inside torch's AveragedModel, with its prefix; {} for other checkpoints."""
    if AVERAGED not in tensors or tensors[AVERAGED].shape != () or len(tensors) == 1:
        return {}
    inner = {name: info for name, info in tensors.items() if name != AVERAGED}
    return inner if all(name.startswith(WRAPPERS[0]) for name in inner) else {}


def _strays(tensors: Mapping[str, TensorInfo]) -> frozenset[str]:
    """A few vectors and numbers beside names that all have the same first part; empty if other tensors stand there, or
    none.

    A matrix belongs to a layer, and two vectors in one module to a norm. With these beside it, a known network is part
    of
    another one: a backbone with a head.
    """
    firsts = Counter(name.partition(".")[0] for name in tensors if "." in name)
    first, count = max(firsts.items(), key=lambda entry: entry[1], default=("", 0))
    if count < SURE or len(tensors) - count > STRAYS:
        return frozenset()
    strays = [name for name in tensors if not name.startswith(f"{first}.")]
    modules = [module_of(name) for name in strays if "." in name]
    layers = len(modules) > len(set(modules)) or any(len(tensors[name].shape) > 1 for name in strays)
    return frozenset() if layers else frozenset(strays)


def _no_spec_error(rater: Rater) -> UsageError:
    """The error if nothing names a spec, with what the names suggest."""
    tensors = rater.tensors
    if not tensors:
        return UsageError("there are no tensors in the model", hint="ckptconv inspect says what is in the file")
    hint = ARCH_HINT
    nearest = rater.best(NEAR)[:1]
    why = f"the library has none with such names ({quoted(tensors, 2)})"
    if nearest and nearest[0].share >= NEAR and len(tensors) >= FEW:
        share, spec, _ = nearest[0]
        why = f"the nearest in the library, {spec.name}, has {share:.0%} of the names in common"
        hint = f"--arch {spec.name} says what differs; {hint}"
    return UsageError(f"nothing says which architecture this is: {why}", hint=hint)


def find_wrapper(spec: Spec, tensors: Mapping[str, TensorInfo]) -> str:
    """The wrapper's prefix without which more of the names are the spec's; "" if there is none."""
    best, found = None, ""
    for prefix in _wrappers(tensors):
        best = overlap(solve(spec, tensors), tensors) if best is None else best
        bare = unwrapped(tensors, prefix)
        inner = overlap(solve(spec, bare), bare)
        if inner > best:
            best, found = inner, prefix
    return found


def _wrappers(tensors: Mapping[str, TensorInfo]) -> list[str]:
    """Wrappers' prefixes that every name has, also one inside another."""
    found: list[str] = []
    prefix = ""
    while tensors and len(found) < MOST_PARTS:
        inner = next((word for word in WRAPPERS if all(name.startswith(prefix + word) for name in tensors)), None)
        if inner is None:
            break
        prefix += inner
        found.append(prefix)
    return found


def unwrapped(tensors: Mapping[str, TensorInfo], prefix: str) -> dict[str, TensorInfo]:
    """The tensors, without a prefix that all names have except the strays."""
    return {name.removeprefix(prefix): info for name, info in tensors.items()}
