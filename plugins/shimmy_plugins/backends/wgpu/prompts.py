"""The program of rows of prompts: many rows, so that arithmetic is what takes time."""

from __future__ import annotations

from collections.abc import Hashable

from shimmy.graph.builder import Graph
from shimmy_plugins.backends.wgpu import experts, singles
from shimmy_plugins.backends.wgpu.costs import attention_cost, product_cost
from shimmy_plugins.backends.wgpu.device import Slice
from shimmy_plugins.backends.wgpu.fused import Attention, Experts, Linear
from shimmy_plugins.backends.wgpu.kernel import Columns
from shimmy_plugins.backends.wgpu.lora import LoraState
from shimmy_plugins.backends.wgpu.lora_calls import expand, shrink
from shimmy_plugins.backends.wgpu.lowering import Lowering
from shimmy_plugins.backends.wgpu.memory import FLOAT, Rows
from shimmy_plugins.backends.wgpu.ops.attention_tile import attention_tile, kv_write
from shimmy_plugins.backends.wgpu.ops.elementwise import elementwise
from shimmy_plugins.backends.wgpu.ops.ending import Ending, width_of
from shimmy_plugins.backends.wgpu.ops.linear_tile import linear_tile
from shimmy_plugins.backends.wgpu.ops.quantize import code_bytes, quantize, scale_bytes
from shimmy_plugins.backends.wgpu.shared import Precision, Shared


class Prompts(Lowering):
    """Norms and rounding to int8 happen once for all products that read the result."""

    label = "rows of prompts"

    def __init__(self, shared: Shared, graph: Graph, rows: int, adapters: LoraState | None = None) -> None:
        super().__init__(shared, graph, rows, adapters)
        self._derived: dict[int, dict[Hashable, list[Slice]]] = {}

    def linear(self, item: Linear) -> None:
        if self.adapters:
            self._adapted(item, self.adapters)
        else:
            self._products(item, item.ending, self.result(item))

    def _adapted(self, item: Linear, adapters: LoraState) -> None:
        """A product to which adapters add; only then gates let through."""
        (x,) = self.multiplied(item, "f32")
        shrunk = shrink(self, adapters, item, x)
        y = self.result(item)
        if item.end is None:
            self._products(item, item.ending, y)
            expand(self, item, shrunk, x, y.memory)
            return
        width = 2 * y.width if item.gated else y.width
        product = Rows(self.memory.take(FLOAT * width * self.count(late=self.late(item.x))), width, 0, width)
        self._products(item, "store", product)
        if item.end == "swiglu":
            expand(self, item, shrunk, x, y.memory, gated=product.memory)
        else:
            expand(self, item, shrunk, x, product.memory)
            self._end(item, product, y)
        self.memory.release(product.memory)

    def _end(self, item: Linear, product: Rows, y: Rows) -> None:
        """What products that adapters have been added to end with."""
        assert item.end is not None
        parts = [product.part(at, y.width) for at in range(0, product.width, y.width)]
        kernel = elementwise(
            self.shared.composer,
            self.shared.gpu,
            item.end,
            y.width,
            inputs=[part.columns for part in parts],
            late=self.late(item.x),
        )
        label = f"{item.label}.{item.end}"
        self.call(label, [kernel], [*(part.memory for part in parts), y.memory, self.step])

    def _products(self, item: Linear, ending: Ending, y: Rows) -> None:
        bias, late = self.bias(item), self.late(item.x)
        for matrix in self.matrices(item):
            precision = self.shared.computes(matrix)
            x = self.multiplied(item, precision)
            kernel = linear_tile(
                self.shared.composer,
                self.shared.gpu,
                matrix.layout,
                matrix.rows,
                matrix.columns,
                precision=precision,
                ending=ending,
                bias=bool(bias),
                y=Columns(width_of(matrix.rows, ending), y.width, matrix.first),
                late=late,
                picked=self.picked(item.x),
            )
            bound = [*matrix.slices, *bias, *x, y.memory, self.step]
            self.call(item.label, [kernel], bound, cost=product_cost(matrix, late=late))

    def experts(self, item: Experts) -> None:
        experts.prompts(self, item)

    def attention(self, item: Attention) -> None:
        inputs = [self.value(i) for i in item.inputs]
        for at, norm in enumerate(item.norms):
            if norm:
                inputs[at] = singles.normed(self, norm, inputs[at], late=False)
        shape, angles = self.attention_shape(item, inputs)
        composer, kv_type = self.shared.composer, self.shared.cache.kv_type
        q, k, v = (x.memory for x in inputs)
        write = kv_write(composer, shape, kv_type)
        self.call(f"{item.label}.kv", [write], [k, v, *self.kv(item), self.step, *angles])
        y = self.new(item.node, behind=item.inputs)
        kernel = attention_tile(composer, self.shared.gpu, shape, kv_type)
        bound = [q, *self.kv(item), y.memory, self.step, *angles]
        self.call(item.label, [kernel], bound, cost=attention_cost(shape, kv_type, shared=True))
        for x, norm in zip(inputs, item.norms, strict=False):
            if norm:
                self.memory.release(x.memory)

    def derived(self, index: int) -> dict[Hashable, list[Slice]]:
        """What was made of a value for products, by how it was made; to be added to."""
        return self._derived.setdefault(index, {})

    def forget(self, index: int) -> None:
        for slices in self._derived.pop(index, {}).values():
            for piece in slices:
                self.memory.release(piece)

    def multiplied(self, item: Linear | Experts, precision: Precision) -> list[Slice]:
        """What a product multiplies: the value itself, normed, rounded to int8, or both."""
        x, norm = self.value(item.x), item.norm
        if precision == "f32" and norm is None:
            return [x.memory]
        made = self.derived(item.x)
        key = precision, norm.index if norm else None
        if key not in made:
            # Rows that are to be picked are among all others still.
            late = self.late(item.x) and not self.picked(item.x)
            if precision == "int8":
                made[key] = self._rounded(item, x, late=late)
            else:
                assert norm is not None
                made[key] = [singles.normed(self, norm, x, late=late).memory]
        return made[key]

    def _rounded(self, item: Linear | Experts, x: Rows, *, late: bool) -> list[Slice]:
        how, weight = self.norm(item)
        columns = self.graph.nodes[item.x].shape[-1] if isinstance(item, Experts) else x.width
        parts = x.width // columns
        kernel = quantize(self.shared.composer, self.shared.gpu, columns, how, parts=parts, late=late)
        rows = self.count(late=late) * parts
        made = [self.memory.take(size * rows) for size in (code_bytes(columns), scale_bytes(columns))]
        label = item.norm.label if item.norm else f"{item.label}.int8"
        self.call(label, [kernel], [x.memory, *weight, *made, self.step])
        return made
