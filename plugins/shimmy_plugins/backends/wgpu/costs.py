"""What products and attention must do at least, for profiles."""

from __future__ import annotations

from shimmy_plugins.backends.wgpu.kernel import Cost, Size, Work
from shimmy_plugins.backends.wgpu.kvcache import head_bytes
from shimmy_plugins.backends.wgpu.memory import FLOAT
from shimmy_plugins.backends.wgpu.ops.attention import AttentionShape
from shimmy_plugins.backends.wgpu.weights import GpuMatrix


def product_cost(matrix: GpuMatrix, *, late: bool) -> Cost:
    """Each weight is read once, and each row of x; each row of y is written."""

    def cost(size: Size) -> Work:
        rows = size.count(late=late)
        weights = matrix.layout.bytes(matrix.rows, matrix.columns)
        values = rows * (matrix.rows + matrix.columns)
        return Work(weights + FLOAT * values, 2 * rows * matrix.rows * matrix.columns)

    return cost


def attention_cost(shape: AttentionShape, kv_type: str, *, shared: bool) -> Cost:
    """Keys and values of a context are read once: for each row, or for all rows if they share it.

    Rows that share a context are its last ones; each sees one position more than the one before.
    """
    width = shape.head_dim + shape.v_dim
    position = head_bytes(kv_type, shape.head_dim) + head_bytes(kv_type, shape.v_dim)

    def cost(size: Size) -> Work:
        contexts = 1 if shared else size.rows
        read = contexts * size.context * shape.kv_heads * position
        seen = size.rows * size.context - (size.rows * (size.rows - 1) // 2 if shared else 0)
        return Work(read, 2 * shape.heads * width * seen)

    return cost
