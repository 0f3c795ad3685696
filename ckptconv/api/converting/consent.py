"""Losses need consent: what was agreed to, and refusing what was not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.api.request import as_tuple
from ckptconv.core.metadata import RUNS, Opaque, TensorRef, nodes_of, walk
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


_BESIDE = frozenset(["metadata", "extras", "opaque"])
"""Losses of what stands beside the model's tensors, mostly."""


def agreed(allow_loss: str | Collection[str]) -> Collection[str]:
    """The codes that are agreed to. Raises UsageError where one is none."""
    codes = as_tuple(allow_loss)
    if unknown := set(codes) - {*preflight.CODES, "all"}:
        raise UsageError(f"there is no loss {min(unknown)!r}", hint=f"known: {', '.join(preflight.CODES)}, all")
    return codes


def refuse_lacking(order: Order, made: Prepared, place: Destination) -> None:
    """Raise UnsupportedError where the checkpoint lacks what the format cannot be written without."""
    if not (lacking := place.format.lacking(made.checkpoint)):
        return
    if order.bare and not place.format.lacking(made.edited):
        hint = "leave --bare out: it takes the model's tensors alone"
    else:
        target = place.path.with_name(place.path.name.removesuffix(place.path.suffix) + place.format.instead)
        hint = f"{order.request.command_into(str(target))} writes the weights alone"
    raise UnsupportedError(f"no {place.format.name} file can be made: {lacking}", path=order.request.source, hint=hint)


def refuse(losses: list[Finding], allowed: Collection[str], source: PathText, *, bare: bool = False) -> None:
    """Raise unless every loss was agreed to. `bare`: no less can be asked for."""
    if "all" in allowed:
        return
    left = [loss for loss in losses if loss.code not in allowed]
    _refuse_calls(left, source)
    if left:
        codes = " ".join(f"--allow-loss {code}" for code in dict.fromkeys(loss.code for loss in left))
        hints = dict.fromkeys(loss.hint for loss in left if loss.hint)
        ways = [*hints, f"{codes} goes on without"]
        if not bare and not _BESIDE.isdisjoint(loss.code for loss in left):
            ways.append("--bare takes the model's tensors alone")
        raise LossError(left, path=source, hint="; ".join(ways))


def refuse_overflow(losses: list[Finding], allowed: Collection[str]) -> None:
    """Raise if finite values became infinite or NaN, which is known once they have passed, without consent."""
    if losses and not {"overflow", "all"} & set(allowed):
        narrow = any(loss.expected not in (None, "F32", "F64") for loss in losses)
        wider = "; or --dtype 'NAME=F32' for these alone" if narrow else ""
        raise LossError(losses, hint=f"--allow-loss overflow goes on{wider}")


def _refuse_calls(losses: list[Finding], source: PathText) -> None:
    """Raise if there is a call that was not agreed to."""
    calls = [loss for loss in losses if loss.code == "opaque" and loss.found in (preflight.CALL, preflight.HANDED)]
    if calls:
        made = sum(loss.found == preflight.CALL for loss in calls)
        what = plural(made, "call") if made else f"{plural(len(calls), 'name')} that can run anything"
        raise UnsafeError(
            f"loading this file with pickle would run code: {what}",
            path=source,
            hint="--bare takes the model's tensors alone; --allow-loss opaque keeps the calls as data, unmade",
            details=first_of([call.message for call in calls]),
        )


def refuse_dependents(opened: Checkpoint, losses: list[Finding], source: PathText) -> None:
    """Raise if a tensor of the model hangs on a call, or if nothing but calls would make one."""
    made = [node for node in nodes_of(opened.root, Opaque) if node.how in RUNS]
    parts = (part for node in made for _, part in walk(node))
    if not len(opened):
        _refuse_calls(losses, source)
    for part in parts:
        if isinstance(part, TensorRef) and part.name in opened:
            raise UnsafeError(
                f"the model's {part.name!r} is an argument of a call, which is not made here",
                path=source,
                hint="load the file in a place that you can lose, and save model.state_dict()",
            )
