"""The ONNX nodes of what transformers add to a network: attention, positions, tensors that belong to no layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.arch.recipe.nodes import GraphNodes

if TYPE_CHECKING:
    from ckptconv.arch.recipe.program import Operation


class AttentionNodes(GraphNodes):
    """Makes the nodes of each operation, in a method that is named after the operation's kind."""

    def _mul(self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None) -> str:
        return self.add("Mul", operation.name, inputs, output)

    def _concat(self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None) -> str:
        return self.add("Concat", operation.name, inputs, output, axis=operation.attributes["axis"])

    def _plus(self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None) -> str:
        return self.add("Add", operation.name, [*inputs, weights[""]], output)

    def _times(self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None) -> str:
        return self.add("Mul", operation.name, [*inputs, weights[""]], output)

    def _prepend(self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None) -> str:
        where, size = operation.name, self.size(operation.name, inputs[0], 0)
        shape = self.add("Concat", where, [size, self.integers(1, 1)], axis=0)
        each = self.add("Expand", where, [weights[""], shape])
        return self.add("Concat", where, [each, *inputs], output, axis=1)

    def _positions(self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None) -> str:
        where, length = operation.name, self.size(operation.name, inputs[0], 1)
        rows = self.add("Slice", where, [weights["weight"], self.integers(0), length, self.integers(0)])
        return self.add("Unsqueeze", where, [rows, self.integers(0)], output)

    def _tokens(self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None) -> str:
        rows = self.add("Reshape", operation.name, [*inputs, self.integers(0, 0, -1)])
        return self.add("Transpose", operation.name, [rows], output, perm=[0, 2, 1])

    def _channels_last(
        self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None
    ) -> str:
        return self.add("Transpose", operation.name, inputs, output, perm=[0, 2, 3, 1])

    def _channels_first(
        self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None
    ) -> str:
        return self.add("Transpose", operation.name, inputs, output, perm=[0, 3, 1, 2])

    def _select(self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None) -> str:
        index = self.integers(int(operation.attributes["index"]))
        row = self.add("Gather", operation.name, [*inputs, index], axis=1)
        return self.add("Squeeze", operation.name, [row, self.integers(1)], output)

    def _chunk(self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None) -> str:
        index, width = int(operation.attributes["index"]), operation.shape[-1]
        assert isinstance(width, int)
        return self.part(operation.name, inputs[0], index, width, output)

    def _attention(self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None) -> str:
        return self.attend(operation, inputs, output, causal=bool(operation.attributes["causal"]))

    def _self_attention(
        self, operation: Operation, inputs: list[str], weights: dict[str, str], output: str | None
    ) -> str:
        where, width = operation.name, self.infos[operation.weights["out_proj.weight"]].shape[0]
        product = self.projected(where, inputs[0], weights["in_proj_weight"], weights.get("in_proj_bias"))
        parts = [self.part(where, product, index, width) for index in range(3)]
        attended = self.attend(operation, parts)
        return self.projected(where, attended, weights["out_proj.weight"], weights.get("out_proj.bias"), output)

    def attend(self, operation: Operation, rows: list[str], output: str | None = None, *, causal: bool = False) -> str:
        """Attention of queries, keys and values, each of the shape (batch, length, width)."""
        where, heads = operation.name, int(operation.attributes["heads"])
        width = operation.shape[-1]
        assert isinstance(width, int)
        shape = self.integers(0, 0, heads, width // heads)
        query, key, value = (self.add("Reshape", where, [row, shape]) for row in rows)
        query = self.add("Transpose", where, [query], perm=[0, 2, 1, 3])
        key = self.add("Transpose", where, [key], perm=[0, 2, 3, 1])
        value = self.add("Transpose", where, [value], perm=[0, 2, 1, 3])
        scaled = self.add("Mul", where, [query, self.scalar((width // heads) ** -0.5)])
        scores = self.add("MatMul", where, [scaled, key])
        if causal:
            scores = self.add("Add", where, [scores, self.later(where, rows[0])])
        share = self.add("Softmax", where, [scores], axis=-1)
        mixed = self.add("Transpose", where, [self.add("MatMul", where, [share, value])], perm=[0, 2, 1, 3])
        return self.add("Reshape", where, [mixed, self.integers(0, 0, width)], output)

    def later(self, where: str, row: str) -> str:
        """A square with minus infinity above its diagonal, as long as a value's second dimension."""
        from onnx import helper

        length = self.size(where, row, 1)
        shape = self.add("Concat", where, [length, length], axis=0)
        value = helper.make_tensor("", self.element(self.dtype), [1], [float("-inf")])
        return self.add("Trilu", where, [self.add("ConstantOfShape", where, [shape], value=value), self.one()], upper=1)

    def one(self) -> str:
        """The number 1: the first diagonal above the main one."""
        return self.add("Squeeze", "constants", [self.integers(1)])

    def size(self, where: str, value: str, axis: int) -> str:
        """A row with the size of one dimension of a value."""
        return self.add("Shape", where, [value], start=axis, end=axis + 1)

    def part(self, where: str, value: str, index: int, width: int, output: str | None = None) -> str:
        """One of the equal parts of a value's last dimension."""
        start, end = self.integers(index * width), self.integers((index + 1) * width)
        return self.add("Slice", where, [value, start, end, self.integers(-1)], output)

    def projected(self, where: str, value: str, weight: str, bias: str | None, output: str | None = None) -> str:
        """A linear layer over a value's last dimension."""
        transposed = self.add("Transpose", where, [weight], perm=[1, 0])
        product = self.add("MatMul", where, [value, transposed], None if bias else output)
        return self.add("Add", where, [product, bias], output) if bias else product
