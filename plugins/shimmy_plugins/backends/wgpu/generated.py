"""The program of generated rows: few rows, so that reading the weights is what takes time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from shimmy.graph.builder import Graph
from shimmy_plugins.backends.wgpu import experts, singles
from shimmy_plugins.backends.wgpu.costs import attention_cost, product_cost
from shimmy_plugins.backends.wgpu.device import Slice
from shimmy_plugins.backends.wgpu.fused import Attention, Experts, Fused, Linear
from shimmy_plugins.backends.wgpu.kernel import Columns
from shimmy_plugins.backends.wgpu.lora import LoraState
from shimmy_plugins.backends.wgpu.lora_calls import Published, added
from shimmy_plugins.backends.wgpu.lowering import Lowering
from shimmy_plugins.backends.wgpu.memory import Rows
from shimmy_plugins.backends.wgpu.ops.attention_vec import attention_vec, partials_bytes
from shimmy_plugins.backends.wgpu.ops.ending import width_of
from shimmy_plugins.backends.wgpu.ops.linear_vec import linear_vec
from shimmy_plugins.backends.wgpu.ops.norm import Norm
from shimmy_plugins.backends.wgpu.shared import Shared
from shimmy_plugins.backends.wgpu.sums import with_beginnings
from shimmy_plugins.backends.wgpu.weights import GpuMatrix


class Generated(Lowering):
    """Norms, rounding to int8, rotations and what is done with a product are parts of other dispatches."""

    label = "generated rows"

    def __init__(self, shared: Shared, graph: Graph, rows: int, adapters: LoraState | None = None) -> None:
        super().__init__(shared, graph, rows, adapters)
        self._published = Published(self)

    def lower(self, items: Sequence[Fused]) -> None:
        super().lower(with_beginnings(items))
        if adapters := self.adapters:
            self.program.insert(0, self._published.clear(lambda: adapters.meets))

    def linear(self, item: Linear) -> None:
        matrices = self.matrices(item)
        total = item.total
        if total and (len(matrices) > 1 or not self._dense(total.inputs)):
            singles.lower(self, total, picked=False)
            total = None
        elif total:
            self.new(self.graph.nodes[item.x], behind=total.inputs)
        y = self.result(item)
        for matrix in matrices:
            self._product(replace(item, total=total), matrix, y)

    def _dense(self, indices: Sequence[int]) -> bool:
        """Whether rows of values hold nothing else."""
        return all(self.value(i).stride == self.value(i).width for i in indices)

    def _product(self, item: Linear, matrix: GpuMatrix, y: Rows) -> None:
        bias = self.bias(item)
        late, picked, total = self.late(item.x), self.picked(item.x), self._total(item)
        x = self.value(item.total.inputs[0] if item.total else item.x)
        adds = added(self, self.adapters, item, self._published) if self.adapters else None
        how, norm = self.norm(item)
        made = linear_vec(
            self.shared.composer,
            self.shared.gpu,
            matrix.layout,
            matrix.rows,
            matrix.columns,
            precision=self.shared.computes(matrix),
            norm=how,
            ending=item.ending,
            bias=bool(bias),
            total=Norm.of(item.total.node) if item.total else None,
            y=Columns(width_of(matrix.rows, item.ending), y.width, matrix.first),
            late=late,
            picked=picked,
            lora=adds.beside if adds else None,
        )
        one, several = (adds.one, adds.several) if adds else ((), ())
        prepared = [self.memory.take(self.count(late=late) * row) for row in made.row_bytes]
        cost = product_cost(matrix, late=late)
        bound = [*matrix.slices, *norm, *bias, x.memory, y.memory, self.step, *one, *total]
        self.call(item.label, [made.one], bound, cost=cost)
        bound = [x.memory, *norm, *prepared, self.step, *several, *total]
        self.call(f"{item.label}.prepare", [made.prepare], bound)
        bound = [*matrix.slices, *bias, *prepared, y.memory, self.step, *several]
        self.call(item.label, made.several, bound, made.rows, cost)
        for memory in (*prepared, *([adds.middle] if adds else ())):
            self.memory.release(memory)

    def _total(self, item: Linear) -> list[Slice]:
        """What x is computed of besides: what is added to, the weight of the norm, and where x is kept."""
        if item.total is None:
            return []
        added, kept = self.value(item.total.inputs[1]), self.value(item.x)
        return [added.memory, self.shared.norm(item.total.node), kept.memory]

    def experts(self, item: Experts) -> None:
        experts.generated(self, item)

    def attention(self, item: Attention) -> None:
        inputs = [self.value(i) for i in item.inputs]
        shape, angles = self.attention_shape(item, inputs, item.norms)
        piece, merge = attention_vec(self.shared.composer, self.shared.gpu, shape, self.shared.cache.kv_type)
        partials = self.memory.take(partials_bytes(shape, self.rows))
        q, k, v = (x.memory for x in inputs)
        y = self.new(item.node, behind=item.inputs)
        norms = [self.shared.norm(node) for node in item.norms if node]
        bound = [q, k, v, *self.kv(item), partials, y.memory, self.step, *angles, *norms]
        cost = attention_cost(shape, self.shared.cache.kv_type, shared=False)
        self.call(item.label, [piece], bound, cost=cost)
        self.call(f"{item.label}.merge", [merge], [partials, y.memory, self.step])
        self.memory.release(partials)

    def forget(self, index: int) -> None:
        """Nothing is made of values but by the dispatches that read them."""
