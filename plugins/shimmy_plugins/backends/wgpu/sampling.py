"""Sampling on the GPU: the tokens of a step's outputs, without their logits leaving it.

    sampler = GpuSampler(gpu, composer, vocabulary, max_rows, logits, chosen)
    calls = sampler.calls(rows)          # a RowSampling for each output row, in order
    gpu.submit([*calls_that_make_logits, *calls], [chosen])

``logits`` holds (max_rows, vocabulary) F32, of which a step has filled the first ``len(rows)`` rows;
``chosen`` gets an i32 for each of them: the token that :func:`shimmy.engine.sampling.choose` gives, bit for
bit, or -1 if the logits are not numbers. What ``calls`` uploads holds for the next submit, so it is called
once for each step, just before it. Tokens that need numbers of the host (:func:`samples_ahead` is false of
them) are not right here: such rows get the token of the largest logit, and whoever reads their logits
back chooses anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from shimmy.engine.protocol import Sampling
from shimmy.engine.sampling import LEAST_TEMPERATURE, Cuts, RowSampling, powers
from shimmy_plugins.backends.wgpu.composer import Composer
from shimmy_plugins.backends.wgpu.device import Call, Gpu, Slice
from shimmy_plugins.backends.wgpu.kernel import Kernel
from shimmy_plugins.backends.wgpu.ops.sample import (
    CUTS,
    chunks_of,
    sample_best,
    sample_draw,
    sample_greedy,
)

_PAIR_BYTES = 8


def samples_ahead(sampling: Sampling) -> bool:
    """Whether a row's token is a matter of its logits and seed alone, and only the token is wanted."""
    return (
        sampling.repeat_penalty == 1.0
        and not sampling.presence_penalty
        and not sampling.frequency_penalty
        and not sampling.logit_bias
        and sampling.logprobs is None
    )


class GpuSampler:
    """Three kernels, and the buffers between them. Only steps that draw pay for drawing."""

    def __init__(
        self, gpu: Gpu, composer: Composer, vocabulary: int, max_rows: int, logits: Slice, chosen: Slice
    ) -> None:
        """OutOfMemoryError: the buffers do not fit."""
        self._gpu = gpu
        self._chunks = chunks_of(vocabulary)
        bests = gpu.buffer(_PAIR_BYTES * max_rows * self._chunks, "best scores").whole()
        self._cuts = gpu.buffer(CUTS.itemsize * max_rows, "sampling of rows")
        table = gpu.buffer(powers().nbytes, "weights of scores")
        gpu.upload(table, powers())

        drawn = (logits, bests, table.whole(), self._cuts.whole(), chosen)
        self._bindings = (
            (sample_best(composer, vocabulary), (logits, bests)),
            (sample_greedy(composer, vocabulary), (bests, chosen)),
            (sample_draw(composer, gpu, vocabulary), drawn),
        )
        for kernel in self.kernels:
            gpu.prepare(kernel.source, kernel.label)

    @property
    def kernels(self) -> list[Kernel]:
        return [kernel for kernel, _ in self._bindings]

    def calls(self, rows: Sequence[RowSampling]) -> list[Call]:
        """What chooses the tokens of the step submitted next, in order."""
        if not rows:
            return []
        cuts = np.zeros(len(rows), CUTS)
        for number, row in enumerate(rows):
            if row.params.temperature >= LEAST_TEMPERATURE and samples_ahead(row.params):
                cuts[number] = _record(Cuts.of(row.params, row.index))
        best, greedy, draw = self._bound
        first = self._sized(best, self._chunks, len(rows))
        if not cuts["scale"].any():
            return [first, self._sized(greedy, len(rows))]
        self._gpu.upload(self._cuts, cuts.view(np.uint32))
        return [first, self._sized(draw, len(rows))]

    @cached_property
    def _bound(self) -> tuple[Call, ...]:
        pipelines = [self._gpu.pipeline(kernel.source, kernel.label) for kernel in self.kernels]
        groups = [self._gpu.bind(p, slices) for p, (_, slices) in zip(pipelines, self._bindings, strict=True)]
        return tuple(self._gpu.call(p, group, 1) for p, group in zip(pipelines, groups, strict=True))

    def _sized(self, call: Call, x: int, y: int = 1) -> Call:
        return self._gpu.call(call.pipeline, call.group, x, y)


def _record(cuts: Cuts) -> tuple[float, int, int, int, int, int]:
    """The fields of CUTS."""
    share, everything = cuts.top_p & 0xFFFFFFFF, cuts.top_p >> 32
    return float(cuts.scale), cuts.top_k, share, everything, cuts.min_weight, cuts.word
