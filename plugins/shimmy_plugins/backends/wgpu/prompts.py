"""The program of rows of prompts: many rows, so that arithmetic is what takes time."""

from __future__ import annotations

from shimmy.graph.builder import Graph
from shimmy_plugins.backends.wgpu.costs import attention_cost, product_cost
from shimmy_plugins.backends.wgpu.device import Slice
from shimmy_plugins.backends.wgpu.fusion import Attention, Linear
from shimmy_plugins.backends.wgpu.lora import LoraState
from shimmy_plugins.backends.wgpu.lora_calls import expand, shrink
from shimmy_plugins.backends.wgpu.lowering import Lowering, Precision, Shared
from shimmy_plugins.backends.wgpu.memory import FLOAT
from shimmy_plugins.backends.wgpu.ops.attention_tile import attention_tile, kv_write
from shimmy_plugins.backends.wgpu.ops.linear_tile import Epilogue, linear_tile
from shimmy_plugins.backends.wgpu.ops.quantize import code_bytes, quantize, scale_bytes
from shimmy_plugins.backends.wgpu.ops.rms_norm import rms_norm


class Prompts(Lowering):
    """Norms and rounding to int8 happen once for all products that read the result."""

    label = "rows of prompts"

    def __init__(self, shared: Shared, graph: Graph, rows: int, adapters: LoraState | None = None) -> None:
        super().__init__(shared, graph, rows, adapters)
        self._derived: dict[int, dict[tuple[Precision, int | None], list[Slice]]] = {}
        """By value: what was made of it for products, by precision and norm."""

    def linear(self, item: Linear) -> None:
        if self.adapters:
            self._adapted(item, self.adapters)
        else:
            self._product(item, item.epilogue, self.result(item).memory)

    def _adapted(self, item: Linear, adapters: LoraState) -> None:
        """A product to which adapters add; only then gates let through."""
        (x,) = self._multiplied(item, "f32")
        shrunk = shrink(self, adapters, item, x)
        y = self.result(item)
        if not item.swiglu:
            self._product(item, item.epilogue, y.memory)
            expand(self, item, shrunk, x, y.memory)
            return
        rows = self.shared.outputs if self.late(item.x) else self.rows
        both = self.memory.take(FLOAT * 2 * y.width * rows)
        self._product(item, "store", both)
        expand(self, item, shrunk, x, y.memory, gated=both)
        self.memory.release(both)

    def _product(self, item: Linear, epilogue: Epilogue, y: Slice) -> None:
        matrix, bias, late = self.matrix(item), self.bias(item), self.late(item.x)
        precision = self.shared.computes(matrix)
        x = self._multiplied(item, precision)
        kernel = linear_tile(
            self.shared.composer,
            self.shared.gpu,
            matrix.layout,
            matrix.rows,
            matrix.columns,
            precision=precision,
            epilogue=epilogue,
            bias=bool(bias),
            late=late,
        )
        bound = [*matrix.slices, *bias, *x, y, self.step]
        self.call(item.label, [kernel], bound, cost=product_cost(matrix, late=late))

    def attention(self, item: Attention) -> None:
        shape, angles = self.attention_shape(item)
        composer, kv_type = self.shared.composer, self.shared.cache.kv_type
        q, k, v = (self.value(i).memory for i in item.inputs)
        write = kv_write(composer, shape, kv_type)
        self.call(f"{item.label}.kv", [write], [k, v, *self.kv(item), self.step, *angles])
        y = self.new(item.node, behind=item.inputs)
        kernel = attention_tile(composer, self.shared.gpu, shape, kv_type)
        bound = [q, *self.kv(item), y.memory, self.step, *angles]
        self.call(item.label, [kernel], bound, cost=attention_cost(shape, kv_type, shared=True))

    def forget(self, index: int) -> None:
        for slices in self._derived.pop(index, {}).values():
            for piece in slices:
                self.memory.release(piece)

    def _multiplied(self, item: Linear, precision: Precision) -> list[Slice]:
        """What a product multiplies: the value itself, normed, rounded to int8, or both."""
        x, norm = self.value(item.x), item.norm
        if precision == "f32" and norm is None:
            return [x.memory]
        made = self._derived.setdefault(item.x, {})
        key = precision, norm.index if norm else None
        if key not in made:
            eps = norm.attrs["eps"] if norm else None
            weight = [self.shared.weights.vector(norm.weights["weight"])] if norm else []
            composer, gpu = self.shared.composer, self.shared.gpu
            if precision == "int8":
                sizes = [code_bytes(x.width), scale_bytes(x.width)]
                kernel = quantize(composer, gpu, x.width, eps)
            else:
                assert eps is not None
                sizes = [FLOAT * x.width]
                kernel = rms_norm(composer, gpu, x.width, eps)
            made[key] = [self.memory.take(size * self.rows) for size in sizes]
            label = norm.label if norm else f"{item.label}.int8"
            self.call(label, [kernel], [x.memory, *weight, *made[key], self.step])
        return made[key]
