"""Losses need consent: this module refuses those that the user did not agree to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.api.request import as_tuple
from ckptconv.core.metadata import RUNS, Opaque, TensorRef, nodes_of, walk
from ckptconv.core.report import summed_up
from ckptconv.core.text import plural
from ckptconv.errors import LossError, UnsafeError, UnsupportedError, UsageError, first_of
from ckptconv.formats.targets import preflight

if TYPE_CHECKING:
    from collections.abc import Collection

    from ckptconv.api.converting.destination import Destination
    from ckptconv.api.converting.order import Order
    from ckptconv.api.converting.prepare import Prepared
    from ckptconv.api.open import PathText
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.report import Finding


_OUTSIDE_THE_MODEL = frozenset(["metadata", "extras", "opaque"])
"""Losses of what mostly lies outside of the model's tensors, and so can be avoided by ``--bare``."""


def parse_allowed(allow_loss: str | Collection[str]) -> Collection[str]:
    """The codes of losses that are agreed to. Raises UsageError for an unknown code."""
    codes = as_tuple(allow_loss)
    if unknown := set(codes) - {*preflight.CODES, "all"}:
        raise UsageError(f"there is no loss {min(unknown)!r}", hint=f"known: {', '.join(preflight.CODES)}, all")
    return codes


def refuse_unwritable(order: Order, prepared: Prepared, place: Destination) -> None:
    """Raise UnsupportedError if the checkpoint lacks something without which the format cannot be written."""
    if not (lacking := place.format.lacking(prepared.checkpoint)):
        return
    if order.bare and not place.format.lacking(prepared.edited):
        hint = "leave --bare out: it takes the model's tensors alone"
    else:
        target = place.path.with_name(place.path.name.removesuffix(place.path.suffix) + place.format.instead)
        hint = f"{order.request.command_into(str(target))} writes the weights alone"
        if place.format.dialect and not order.edits.templates:
            hint += f"; --like MODEL{place.format.suffixes[0]} takes what is lacking from a file of the same model"
    raise UnsupportedError(f"no {place.format.name} file can be made: {lacking}", path=order.request.source, hint=hint)


def require_consent(losses: list[Finding], allowed: Collection[str], source: PathText, *, bare: bool = False) -> None:
    """Raise LossError or UnsafeError unless every loss was agreed to. `bare`: the hint need not name ``--bare``."""
    if "all" in allowed:
        return
    refused = [loss for loss in losses if loss.code not in allowed]
    _refuse_calls(refused, source)
    if refused:
        codes = " ".join(f"--allow-loss {code}" for code in dict.fromkeys(loss.code for loss in refused))
        hints = dict.fromkeys(loss.hint for loss in refused if loss.hint)
        ways = [*hints, f"{codes} agrees to that"]
        if not bare and not _OUTSIDE_THE_MODEL.isdisjoint(loss.code for loss in refused):
            ways.append("--bare takes the model's tensors alone")
        raise LossError(refused, path=source, hint="; ".join(ways), told=summed_up(refused))


def refuse_overflow(losses: list[Finding], allowed: Collection[str]) -> None:
    """Raise LossError if finite values became infinite or NaN without consent. That is known once they have passed."""
    if losses and not {"overflow", "all"} & set(allowed):
        narrow = any(loss.expected not in (None, "F32", "F64") for loss in losses)
        wider = "; or --dtype 'NAME=F32' for these alone" if narrow else ""
        raise LossError(losses, hint=f"--allow-loss overflow goes on{wider}")


def _refuse_calls(losses: list[Finding], source: PathText) -> None:
    """Raise UnsafeError if loading the source would call something, or hand on what can run anything."""
    calls = [loss for loss in losses if loss.code == "opaque" and loss.found in (preflight.CALL, preflight.HANDED)]
    if calls:
        count = sum(loss.found == preflight.CALL for loss in calls)
        what = plural(count, "call") if count else f"{plural(len(calls), 'name')} that can run anything"
        raise UnsafeError(
            f"loading this file with pickle would run code: {what}",
            path=source,
            hint="--bare takes the model's tensors alone; --allow-loss opaque keeps the calls as data, unmade",
            details=first_of([call.message for call in summed_up(calls)]),
        )


def refuse_dependents(opened: Checkpoint, losses: list[Finding], source: PathText) -> None:
    """Raise UnsafeError if a tensor of the model is an argument of a call, or if there are calls and no tensors."""
    calls = [node for node in nodes_of(opened.root, Opaque) if node.how in RUNS]
    if not len(opened):
        _refuse_calls(losses, source)
    for part in (part for call in calls for _, part in walk(call)):
        if isinstance(part, TensorRef) and part.name in opened:
            raise UnsafeError(
                f"the model's {part.name!r} is an argument of a call, which is not made here",
                path=source,
                hint="load the file in a place that you can lose, and save model.state_dict()",
            )
