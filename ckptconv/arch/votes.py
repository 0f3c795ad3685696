"""Votes for the values of unknown params: each dimension of a tensor has a vote, and the majority decides.

So a single wrong tensor does not spoil the solution: it is outvoted, and reported as the tensor that disagrees. A
dimension ``a*x + b`` with one unknown `x` votes for `x`; ``a*x*y + b`` votes for the product ``x*y``, which is kept if
its factors stay open. A dimension for which no integer is a solution does not vote.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.arch.polynomial import SCALAR, Atom, Monomial, Polynomial

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptconv.arch.bind import Source
    from ckptconv.arch.scope import Bindings
    from ckptconv.arch.spec import ParamValue

MAX_WITNESSES = 5
"""How many tensors' names are kept for each value, for messages."""


@dataclass(slots=True)
class Ballot:
    """The votes for one unknown, or product of unknowns: value → weight, and some of the tensors that vote for it."""

    weights: dict[int, int] = field(default_factory=dict)
    witnesses: dict[int, list[str]] = field(default_factory=dict)

    def add(self, value: int, weight: int, witness: str) -> None:
        """Count a vote."""
        if value in self.weights:
            self.weights[value] += weight
            names = self.witnesses[value]
            if len(names) < MAX_WITNESSES and witness not in names:
                names.append(witness)
        else:
            self.weights[value] = weight
            self.witnesses[value] = [witness]

    def winner(self, stated: Sequence[int]) -> int:
        """The value with the most votes. Each stated value has one vote too, but loses a draw against the tensors'."""
        if len(self.weights) == 1 and len(stated) < 2:  # at worst one against one, where the tensors win
            return next(iter(self.weights))
        total = Counter(self.weights)
        total.update(stated)
        return max(total, key=lambda value: (total[value], self.weights.get(value, 0)))


def vote(ballots: dict[Monomial, Ballot], value: int | Polynomial, size: int, weight: int, witness: str) -> bool:
    """Count that `value` equals `size`. Returns whether that was all it can say: a product may say more later."""
    if not isinstance(value, Polynomial):
        return True
    terms, rest = value.terms, size
    if () in terms:
        terms = dict(terms)
        rest -= terms.pop(())
    if len(terms) > 1:
        return False
    ((monomial, factor),) = terms.items()
    if rest % factor == 0 and rest // factor >= 0:
        ballot = ballots.get(monomial)
        if ballot is None:
            ballot = ballots[monomial] = Ballot()
        ballot.add(rest // factor, weight, witness)
    return len(monomial) == 1


def stated_values(sources: Sequence[Source], key: Atom) -> list[int]:
    """The values that sources state for one unknown."""
    return [value for source in sources if (value := stated_value(source.values, key)) is not None]


def stated_value(values: Mapping[str, ParamValue], key: Atom) -> int | None:
    """The value that one source states for one unknown."""
    name, part = key
    value = values.get(name)
    if isinstance(value, list):
        if part < 0:
            return None if part == SCALAR else len(value)
        item = value[part] if part < len(value) else None
        return item if isinstance(item, int) else None
    return value if part == SCALAR and isinstance(value, int) else None


def decide(ballots: Mapping[Monomial, Ballot], bindings: Bindings, sources: Sequence[Source]) -> list[Atom]:
    """Bind every unknown that has votes, and keep products. Returns the unknowns that were bound."""
    bound: list[Atom] = []
    for monomial, ballot in ballots.items():
        if len(monomial) > 1:
            bindings.products[monomial] = ballot.winner([])
        elif not bindings.knows(monomial[0]):
            bindings.set_atom(monomial[0], ballot.winner(stated_values(sources, monomial[0])))
            bound.append(monomial[0])
    return bound


def divides(bindings: Bindings, key: Atom, value: int) -> bool:
    """Whether every known product with this unknown allows it to have this value."""
    for monomial, product in bindings.products.items():
        times = monomial.count(key)
        if times and (value == 0 or product % value**times) and product:
            return False
    return True
