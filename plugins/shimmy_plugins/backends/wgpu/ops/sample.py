"""From logits to tokens: the best score of a row by chunks, then of the chunks, or a draw.

The grids of these kernels are a matter of outputs alone, so whoever calls them says how many there are.
"""

from __future__ import annotations

import numpy as np

from shimmy.engine.sampling import STEPS
from shimmy.errors import GraphError
from shimmy_plugins.backends.wgpu.composer import Composer
from shimmy_plugins.backends.wgpu.device import Gpu
from shimmy_plugins.backends.wgpu.kernel import Kernel, Size

#: A row's record of ``struct Cuts`` in shaders/shimmy_shaders/common/sample.wgsl.
CUTS = np.dtype(
    [
        ("scale", np.float32),
        ("top_k", np.uint32),
        ("top_p", np.uint32),
        ("all", np.uint32),
        ("min_weight", np.uint32),
        ("word", np.uint32),
    ]
)
_CHUNK = 2048
_BEST_THREADS = 256
_GREEDY_THREADS = 64
#: A row is drawn from by one workgroup, so a large one.
_DRAW_THREADS = 1024
#: Sums of 11 bits of as many weights fit into 32 bits.
_MOST = 1 << 21


def chunks_of(vocabulary: int) -> int:
    """Chunks of a row, each with a best score of its own."""
    return -(-vocabulary // _CHUNK)


def sample_best(composer: Composer, vocabulary: int) -> Kernel:
    """The best score of each chunk. Bindings: logits, bests."""
    chunks = chunks_of(vocabulary)
    source = composer.compose(
        "shimmy/ops/sample_best.wgsl",
        workgroup=_BEST_THREADS,
        vocabulary=vocabulary,
        chunk=_CHUNK,
        chunks=chunks,
    )
    return Kernel(f"best of {vocabulary}", source, lambda size: (chunks, size.outputs, 1))


def sample_greedy(composer: Composer, vocabulary: int) -> Kernel:
    """The token of the best score. Bindings: bests, chosen."""
    source = composer.compose(
        "shimmy/ops/sample_greedy.wgsl", workgroup=_GREEDY_THREADS, chunks=chunks_of(vocabulary)
    )
    return Kernel(f"greedy of {vocabulary}", source, _row_grid)


def sample_draw(composer: Composer, gpu: Gpu, vocabulary: int) -> Kernel:
    """A token drawn by weight. Bindings: logits, bests, powers, cuts, chosen.

    Raises:
        GraphError: the vocabulary is too large for exact sums.
    """
    if vocabulary > _MOST:
        raise GraphError(
            f"a vocabulary of {vocabulary} is too large to sample from on a GPU; {_MOST} is most."
        )
    source = composer.compose(
        "shimmy/ops/sample_draw.wgsl",
        workgroup=min(_DRAW_THREADS, 1 << (gpu.limits.invocations.bit_length() - 1)),
        vocabulary=vocabulary,
        chunks=chunks_of(vocabulary),
        steps=STEPS,
    )
    return Kernel(f"draw of {vocabulary}", source, _row_grid)


def _row_grid(size: Size) -> tuple[int, int, int]:
    return size.outputs, 1, 1
