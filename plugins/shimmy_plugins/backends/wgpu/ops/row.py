"""Row ops: what computes a row of results from the same row of its inputs. A new one is one ``.wgsl`` file.

The file declares its bindings in this order, all of them arrays of f32 but the last, and uses each:

    the inputs, then the weights (read); y (read_write); step: array<u32> (read)

Then it includes ``shimmy/common/row.wgsl`` and has a ``main`` of ``@workgroup_size(${workgroup})``. One
workgroup computes one part of one row: ``workgroup_id.x`` is the row, which exists if it is below ``rows()``,
``workgroup_id.y`` the part. ``input0(row)``, ``input1(row)``, ... are where inputs have a row,
``result(row)`` is where y has it. ``shaders/shimmy_shaders/ops/swiglu.wgsl`` is one of a dozen lines.

What the template can bake in:

    inputs      their Columns: width, stride, offset
    weights     the roles of the weights, in order
    width       columns of a row of y
    parts       workgroups for a row
    attrs       the node's attributes, by name
    workgroup   invocations of a workgroup, a power of two; subgroup: lanes of a subgroup, 0: none
    late        whether rows are those whose logits are wanted
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shimmy_plugins.backends.wgpu.composer import Composer
from shimmy_plugins.backends.wgpu.device import Gpu
from shimmy_plugins.backends.wgpu.kernel import Columns, Kernel, Size

#: Most invocations that share a row.
WORKGROUP = 256


def columns(width: int) -> Columns:
    """Rows that hold nothing else."""
    return Columns(width, width)


def row_op(
    composer: Composer,
    gpu: Gpu,
    file: str,
    *,
    inputs: Sequence[Columns],
    width: int,
    weights: Sequence[str] = (),
    attrs: Mapping[str, Any] | None = None,
    parts: int = 1,
    across: int | None = None,
    late: bool = False,
) -> Kernel:
    """The op of the shader ``file``; bindings: the inputs, the weights, y, step.

    ``across``: numbers that a workgroup shares out, if they are not the columns of a part.
    ``late``: there is a row for each of the phase's outputs, from the ``step_first_output``-th on; so it is
    with inputs and results of ops behind ``last``.
    """
    source = composer.compose(
        file,
        inputs=tuple(inputs),
        weights=tuple(weights),
        width=width,
        parts=parts,
        attrs=dict(attrs or {}),
        workgroup=workgroup_for(gpu, across or width // parts),
        subgroup=gpu.subgroup,
        late=late,
    )

    def grid(size: Size) -> tuple[int, int, int]:
        return size.count(late=late), parts, 1

    name = file.rpartition("/")[2].removesuffix(".wgsl")
    return Kernel(f"{name} {width}", source, grid)


def workgroup_for(gpu: Gpu, width: int) -> int:
    """Invocations that share ``width`` columns: a power of two."""
    most = min(WORKGROUP, gpu.limits.invocations)
    return min(1 << (max(width, 1) - 1).bit_length(), most)
