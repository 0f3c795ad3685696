"""Writes a spec from checkpoints: numbered blocks become loops, and dimensions get names.

A single checkpoint shows which sizes are equal; several sizes of one family show which of them are equal only by
chance, so two checkpoints are far better than one. Sizes that are equal in every checkpoint become one param. A size
that does not change between checkpoints becomes a number if it looks like a kernel (3), else a param. Sizes that change
from block to block become an ``ints`` param, as in ``[input, *widths]``.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

from ckptconv.arch.check import check
from ckptconv.arch.folding import HINT, Folded, Leaf, fold
from ckptconv.arch.load import parse_text
from ckptconv.arch.naming import Namer, loop_names, presence_name, role
from ckptconv.arch.solver import solve
from ckptconv.errors import CkptconvError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptconv.core.tensor import TensorInfo

MAX_TRIES = 50
"""How many sites may turn out not to be loops."""

SMALL = 4
"""Sizes up to this that no checkpoint changes are written as numbers: kernels, dimensions of size 1."""

Vector = tuple[int, ...]
"""A size in each of the checkpoints."""

Lists = tuple[Vector, ...]
"""A size for each value of a loop, in each of the checkpoints."""


def infer(checkpoints: Sequence[Mapping[str, TensorInfo]], *, name: str = "inferred", summary: str = "") -> str:
    """A spec, as TOML, that all checkpoints fit. Give it two or more sizes of one family if possible.

    Raises UsageError if there are no tensors, UnsupportedError if the names or sizes follow no rule that the language
    has.
    """
    if not checkpoints or not all(checkpoints):
        raise UsageError(
            "a spec is inferred from checkpoints with at least one tensor each", hint="leave those without tensors out"
        )
    braces = next((key for checkpoint in checkpoints for key in checkpoint if "{" in key or "}" in key), None)
    if braces is not None:
        raise UnsupportedError(
            f"a spec cannot spell the name {braces!r}: braces are for expressions",
            hint="ckptconv convert --rename 'REGEX=REPL' gives it another one",
        )
    literal: frozenset[str] = frozenset()
    for _ in range(MAX_TRIES):
        folded = fold(checkpoints, literal)
        try:
            text = _Writer(folded, checkpoints, name, summary).toml()
            break
        except _NotALoopError as error:
            if error.site in literal:
                raise UnsupportedError(f"no rule found for the shapes behind {error.site!r}", hint=HINT) from None
            literal |= {error.site}
    else:
        raise UnsupportedError("no rule found for the shapes of these checkpoints", hint=HINT)
    _check_fits(text, checkpoints)
    return text


def _check_fits(text: str, checkpoints: Sequence[Mapping[str, TensorInfo]]) -> None:
    """Raise UnsupportedError unless the spec accepts the checkpoints that it was made from."""
    try:
        spec = parse_text(text)
        for checkpoint in checkpoints:
            solution = solve(spec, checkpoint)
            found = [*solution.findings, *check(solution.table, checkpoint)] if solution.table else [solution.problem]
            if found:
                break
    except CkptconvError as error:
        raise UnsupportedError(f"no rule found that says these checkpoints: {error.message}", hint=HINT) from error
    if found:
        why = getattr(found[0], "message", found[0])
        raise UnsupportedError(f"no rule found that says all of these checkpoints: {why}", hint=HINT)


class _NotALoopError(Exception):
    """A site's shapes cannot be written with a loop, so the site keeps its numbers."""

    def __init__(self, site: str) -> None:
        super().__init__(site)
        self.site = site


class _Writer:
    def __init__(
        self, folded: Folded, checkpoints: Sequence[Mapping[str, TensorInfo]], name: str, summary: str
    ) -> None:
        self.folded, self.name, self.summary = folded, name, summary
        self.files = len(checkpoints)
        self.namer = Namer()
        self.loops = [self.loop_name(site.text) for site in folded.sites]
        self.counts: dict[Vector | Lists, str] = {}
        self.params: dict[str, str] = {}
        self.repeats: dict[str, str] = {}
        self.rows: list[tuple[str, str]] = []
        self.scalars: dict[Vector, str] = {}
        self.lists: dict[tuple[int, Lists], str] = {}
        self.switches: dict[Vector, str] = {}
        self.roles: dict[Vector, Counter[str]] = {}
        self.uses = self.count_uses()

    def loop_name(self, text: str) -> str:
        return self.namer.fresh(loop_names(text)[0])

    # -- sizes

    def count_uses(self) -> Counter[Vector]:
        """How often each vector of sizes occurs. Also collects what to call it."""
        uses: Counter[Vector] = Counter()
        for leaf in self.folded.leaves:
            for axis in range(len(leaf.rows[0].shape)):
                vector = self.vector(leaf, axis)
                if vector is not None:
                    uses[vector] += 1
                    self.roles.setdefault(vector, Counter())[
                        role(_plain_name(leaf), axis, len(leaf.rows[0].shape))
                    ] += 1
        return uses

    def vector(self, leaf: Leaf, axis: int) -> Vector | None:
        """The size in each checkpoint; None if a loop changes it. Checkpoints without the tensor are filled in."""
        sizes: dict[int, int] = {}
        for row in leaf.rows:
            if sizes.setdefault(row.file, row.shape[axis]) != row.shape[axis]:
                return None
        if len(sizes) < self.files:
            return self.complete(sizes)
        return tuple(sizes[file] for file in range(self.files))

    def complete(self, sizes: dict[int, int]) -> Vector:
        """A vector for a tensor that some checkpoints do not have: a known one that agrees, else with -1 for these."""
        for vector in self.scalars:
            if all(vector[file] == size for file, size in sizes.items()):
                return vector
        return tuple(sizes.get(file, -1) for file in range(self.files))

    def dimension(self, leaf: Leaf, axis: int) -> str:
        vector = self.vector(leaf, axis)
        if vector is not None:
            return self.scalar(vector, axis, len(leaf.rows[0].shape))
        return self.varying(leaf, axis)

    def scalar(self, vector: Vector, axis: int, rank: int) -> str:
        """A size that no loop changes, written as a number, a param, a multiple of one, or the last item of a list."""
        known = {size for size in vector if size >= 0}
        is_kernel = rank > 2 and axis > 1
        largest_literal = SMALL if self.files > 1 else 1
        if len(known) == 1 and (max(known) <= largest_literal or is_kernel):
            return str(max(known))
        if vector in self.scalars:
            return self.scalars[vector]
        for (_, lists), param in self.lists.items():
            if all(row and row[-1] == size for row, size in zip(lists, vector, strict=True)):
                return f"{param}[-1]"
        for factor in (2, 3):
            part = tuple(size // factor for size in vector)
            if part in self.scalars and len(set(vector)) > 1 and all(size % factor == 0 for size in vector):
                return f"{factor}*{self.scalars[part]}"
        return self.new_scalar(vector)

    def new_scalar(self, vector: Vector) -> str:
        roles = self.roles.get(vector) or Counter({"size": 1})
        most = self.uses.most_common(1)
        word = "hidden" if most and most[0][0] == vector and most[0][1] > 3 else roles.most_common(1)[0][0]
        name = self.scalars[vector] = self.namer.fresh(word)
        self.params[name] = "int"
        return name

    def varying(self, leaf: Leaf, axis: int) -> str:
        """A size that changes with a loop: either only the first turn's differs, or it is an item of a list."""
        for depth, site in enumerate(leaf.sites):
            lists = self.per_value(leaf, axis, depth)
            if lists is None:
                continue
            loop = self.loops[site]
            if self.first_differs(lists):
                first = self.scalar(tuple(row[0] for row in lists), axis, 2)
                rest = self.scalar(tuple(row[-1] for row in lists), axis, 2)
                return f"({first} if {loop} == 0 else {rest})"
            return self.list_item(site, lists, loop, leaf, axis)
        raise _NotALoopError(self.folded.sites[leaf.sites[0]].text)

    def per_value(self, leaf: Leaf, axis: int, depth: int) -> Lists | None:
        """The size at each value of one loop, in each checkpoint; None if something else changes it, too."""
        sizes: list[dict[int, int]] = [{} for _ in range(self.files)]
        for row in leaf.rows:
            if sizes[row.file].setdefault(row.loops[depth], row.shape[axis]) != row.shape[axis]:
                return None
        if any(sorted(found) != list(range(len(found))) or not found for found in sizes):
            return None
        return tuple(tuple(found[value] for value in range(len(found))) for found in sizes)

    def first_differs(self, lists: Lists) -> bool:
        return all(len(set(row[1:])) <= 1 for row in lists) and any(len(row) > 2 for row in lists)

    def list_item(self, site: int, lists: Lists, loop: str, leaf: Leaf, axis: int) -> str:
        """A list's item; if the list is another one shifted by one place, it is written as that with a first item."""
        if (site, lists) in self.lists:
            return f"{self.lists[site, lists]}[{loop}]"
        for (other, known), param in self.lists.items():
            if other == site and all(a[1:] == b[:-1] for a, b in zip(lists, known, strict=True)):
                vector = tuple(row[0] for row in lists)
                self.roles.setdefault(vector, Counter({"input_size": 1}))
                return f"[{self.scalar(vector, axis, 2)}, *{param}][{loop}]"
        name = self.lists[site, lists] = self.namer.fresh(self.list_name(site, leaf, axis))
        self.params[name] = "ints"
        return f"{name}[{loop}]"

    def list_name(self, site: int, leaf: Leaf, axis: int) -> str:
        """The plural of the loop's name for the loop's first list; else the plural of the dimension's name."""
        plural = loop_names(self.folded.sites[site].text)[1]
        if plural not in self.namer.taken and plural.endswith("s"):
            return plural
        return f"{role(_plain_name(leaf), axis, 2)}s"

    # -- loops and presence

    def repeat(self, index: int) -> None:
        """Write a loop's bound: the length of a list that it runs over, a count, or a count for each outer value."""
        site, loop = self.folded.sites[index], self.loops[index]
        if loop in self.repeats:
            return
        for other in site.outer:
            self.repeat(other)
        along = next((param for (owner, _), param in self.lists.items() if owner == index), None)
        if along is not None and not site.outer:
            self.repeats[loop] = f"len({along})"
            return
        per_file: list[set[int]] = [set() for _ in range(self.files)]
        for (file, _), count in site.counts.items():
            per_file[file].add(count)
        if all(len(found) <= 1 for found in per_file):
            vector = tuple(max(found, default=0) for found in per_file)
            self.repeats[loop] = self.count(vector, site.text)
            return
        self.repeats[loop] = self.count_for_each(index)

    def count(self, vector: Vector, text: str) -> str:
        if vector not in self.counts:
            self.counts[vector] = self.namer.fresh(loop_names(text)[1])
            self.params[self.counts[vector]] = "int"
        return self.counts[vector]

    def count_for_each(self, index: int) -> str:
        site = self.folded.sites[index]
        if len(site.outer) != 1:
            raise _NotALoopError(self.folded.sites[site.outer[0]].text)
        rows: list[dict[int, int]] = [{} for _ in range(self.files)]
        for (file, outer), count in site.counts.items():
            rows[file][outer[0]] = count
        lists = tuple(tuple(found.get(value, 0) for value in range(max(found) + 1)) for found in rows)
        if lists not in self.counts:
            self.counts[lists] = self.namer.fresh(loop_names(site.text)[1])
            self.params[self.counts[lists]] = "ints"
        return f"{self.counts[lists]}[{self.loops[site.outer[0]]}]"

    def name_of(self, leaf: Leaf) -> str:
        result: list[str] = []
        for part in leaf.parts:
            if isinstance(part, str):
                result.append(part)
                continue
            site, loop = self.folded.sites[part], self.loops[part]
            scaled = loop if site.stride == 1 else f"{site.stride}*{loop}"
            result.append(f"{{{scaled}}}" if site.first == 0 else f"{{{scaled} + {site.first}}}")
        return "".join(result)

    def presence_switch(self, leaf: Leaf) -> str | None:
        """A bool param for tensors that only some of the checkpoints have."""
        files = frozenset(row.file for row in leaf.rows)
        if len(files) == self.files or self.not_reached(leaf):
            return None
        key = tuple(int(file in files) for file in range(self.files))
        switch = self.switches.get(key)
        if switch is None:
            switch = self.switches[key] = self.namer.fresh(presence_name(_plain_name(leaf)))
            self.params[switch] = '{ type = "bool", default = true }'
        return switch

    def not_reached(self, leaf: Leaf) -> bool:
        """Whether a tensor is absent from other checkpoints only because its loop has fewer turns there."""
        present = {row.file for row in leaf.rows}
        for index in leaf.sites:
            counts = self.folded.sites[index].counts
            if all(not any(owner == file for owner, _ in counts) for file in range(self.files) if file not in present):
                return True
        return leaf.condition is not None and leaf.condition.endswith("> 0")

    # -- the text

    def toml(self) -> str:
        for leaf in self.folded.leaves:
            self.row(leaf)
        for index in range(len(self.folded.sites)):
            if any(index in leaf.sites for leaf in self.folded.leaves):
                self.repeat(index)
        lines = ["spec = 1", f"name = {_string(self.name)}", f"summary = {_string(self.summary)}", "", "[params]"]
        lines += [f"{name} = {kind if kind.startswith('{') else _string(kind)}" for name, kind in self.params.items()]
        if self.repeats:
            lines += ["", "[repeat]", *(f"{loop} = {_string(bound)}" for loop, bound in self.repeats.items())]
        lines += ["", "[tensors]", *(f"{_string(name)} = {value}" for name, value in self.unique_rows())]
        return "\n".join(lines) + "\n"

    def row(self, leaf: Leaf) -> None:
        shape = " ".join(self.dimension(leaf, axis) for axis in range(len(leaf.rows[0].shape)))
        conditions = [leaf.condition] if leaf.condition else []
        for index in sorted(leaf.sites, reverse=True):
            conditions = [condition.replace(f"#{index}", self.loops[index]) for condition in conditions]
        switch = self.presence_switch(leaf)
        if switch:
            conditions.append(switch)
        if conditions:
            when = _string(" and ".join(conditions))
            self.rows.append((self.name_of(leaf), f"{{ shape = {_string(shape)}, when = {when} }}"))
        else:
            self.rows.append((self.name_of(leaf), _string(shape)))

    def unique_rows(self) -> list[tuple[str, str]]:
        """The rows. Raises UnsupportedError if two have the same name."""
        names = Counter(name for name, _ in self.rows)
        twice = next((name for name, count in names.items() if count > 1), None)
        if twice is not None:
            raise UnsupportedError(f"tensors counted as {twice!r} have different numbers of dimensions", hint=HINT)
        return self.rows


def _string(text: str) -> str:
    """A TOML string that a terminal can show.

    JSON's own escapes beyond U+FFFF are surrogates, which TOML does not have.
    """
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(character if character.isprintable() else f"\\U{ord(character):08x}" for character in quoted)


def _plain_name(leaf: Leaf) -> str:
    return "".join(part if isinstance(part, str) else "0" for part in leaf.parts)
