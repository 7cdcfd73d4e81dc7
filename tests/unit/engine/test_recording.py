"""Model files whose tensors and metadata do not belong together: each is refused by name, none computed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shimmy.engine.load import record_model
from shimmy.engine.settings import EngineSettings
from shimmy.errors import ModelError
from shimmy.gguf.reader import open_gguf
from shimmy.gguf.types import types_by_id
from shimmy.gguf.writer import RawTensor, write_gguf
from shimmy.plugins import Plugins
from shimmy.testing.plans import no_progress, read_model
from tests import architectures

#: What comes with shimmy.
NAMES = [name for name in architectures.NAMES if name != "olmo2"]
#: What is wrong: tensors left out, tensors of another shape, other metadata; and what is said of it.
BROKEN: dict[str, tuple[str, Any, Any, Any, str]] = {
    "bias": (
        "phi2",
        ("blk.1.attn_q.bias",),
        {},
        {},
        "there is no 'blk.1.attn_q.bias', but 'blk.0.attn_q.bias'",
    ),
    "norm's bias": (
        "gpt2",
        ("output_norm.bias",),
        {},
        {},
        "there is no 'output_norm.bias', but 'blk.0.attn_norm.bias'",
    ),
    "more layers": (
        "gemma",
        (),
        {},
        {"block_count": 1},
        "tensors of 2 layers, 'gemma.block_count' is 1",
    ),
    "no layer": ("gemma", (), {}, {"block_count": 0}, "'block_count' of the architecture is 0, expected"),
    "width": (
        "gemma2",
        (),
        {},
        {"embedding_length": 96},
        "'token_embd.weight' has the shape (448, 72), 'gemma2.embedding_length' is 96",
    ),
    "heads": (
        "gemma3",
        (),
        {},
        {"attention.key_length": 32},
        "'attn_q' makes 6 heads of 16 numbers, by 'attention.key_length', or else 'embedding_length', they "
        "have 32",
    ),
    "shares of heads": (
        "phi3",
        (),
        {},
        {"attention.head_count": 5},
        "queries (5, 28), keys (2, 28) and values (2, 22) do not fit together. The input was made by "
        "'blk.0.attn_qkv.weight' (240, 144)",
    ),
    "window": (
        "gemma3",
        (),
        {},
        {"attention.sliding_window": -5},
        "blk.0.attention: the window is -5 tokens, expected at least 1",
    ),
    "epsilon": (
        "gemma",
        (),
        {},
        {"attention.layer_norm_rms_epsilon": float("nan")},
        "blk.0.attn_norm: epsilon is nan, expected a finite number, 0 or above",
    ),
    "halves": (
        "phi3",
        (),
        {"blk.1.ffn_up.weight": (111, 144)},
        {},
        "blk.1.swiglu: inputs differ in shape: (55,), (56,). The input was made by 'blk.1.ffn_up.weight' "
        "(111, 144)",
    ),
    "scales beside matrices": (
        "gemma",
        (),
        {"blk.0.attn_q.scale": (1,), "blk.1.attn_q.scale": (1,)},
        {},
        "'gemma' does not read 2 of the tensors, first 'blk.0.attn_q.scale': answers without them",
    ),
    "last norm": (
        "gemma2",
        (),
        {"output_norm.weight": (71,)},
        {},
        "its input (72,). The input was made by 'blk.2.post_ffw_norm.weight' (72,), "
        "'blk.2.post_attention_norm.weight' (72,), 'blk.1.post_ffw_norm.weight' (72,). The file is damaged",
    ),
    "experts that are not told": (
        "mixtral",
        (),
        {},
        {"expert_used_count": None},
        "'expert_used_count' of the architecture is 0, and layers have 5 experts; expected 1 to 5",
    ),
    "no experts": (
        "qwen2moe",
        (),
        {},
        {"expert_used_count": 0},
        "'expert_used_count' of the architecture is 0, and layers have 6 experts",
    ),
    "more experts than there are": (
        "qwen3moe",
        (),
        {},
        {"expert_used_count": 99},
        "'expert_used_count' of the architecture is 99, and layers have 7 experts",
    ),
    "experts of another model": (
        "mixtral",
        (),
        {},
        {"expert_count": 3},
        "'expert_count' of the architecture is 3, and layers have 5 experts; expected 5",
    ),
    "experts that are chosen otherwise": (
        "qwen3moe",
        (),
        {},
        {"expert_gating_func": 2},
        "'expert_gating_func' of the architecture is 2, and layers have 7 experts; expected 1, softmax",
    ),
    "a matrix of fewer experts": (
        "mixtral",
        (),
        {"blk.1.ffn_down_exps.weight": (4, 48, 40)},
        {},
        "'blk.1.ffn_down_exps.weight' has 4 experts, but 5 are chosen from",
    ),
    "vocabulary": (
        "qwen2",
        (),
        {"token_embd.weight": (300, 96)},
        {},
        "'token_embd.weight' has the shape (300, 96), the vocabulary 448 tokens",
    ),
    "vocabulary of answers": (
        "llama",
        (),
        {"output.weight": (440, 72)},
        {},
        "'output.weight' has the shape (440, 72), the vocabulary 448 tokens",
    ),
    "long factors": (
        "phi3",
        ("rope_factors_long.weight",),
        {},
        {"rope.scaling.type": None},
        "'longrope' needs 'phi3.rope.scaling.original_context_length' and the tensor "
        "'rope_factors_long.weight'",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_does_not_belong_together_is_refused(case: str, plugins: Plugins, tmp_path: Path) -> None:
    name, missing, shapes, keys, words = BROKEN[case]
    path = changed(architectures.converted(name, tmp_path, plugins), plugins, missing, shapes, keys)
    with pytest.raises(ModelError, match=re.escape(words)) as caught:
        record_model(path, name, EngineSettings(), plugins, no_progress)
    assert caught.value.message.startswith(f"{path}: ")
    assert caught.value.hint


@pytest.mark.parametrize("name", NAMES)
def test_files_as_they_should_be_are_recorded(name: str, plugins: Plugins, tmp_path: Path) -> None:
    path = architectures.converted(name, tmp_path, plugins)
    model = record_model(path, name, EngineSettings(), plugins, no_progress)
    assert model.graph.nodes == read_model(path, plugins, model.context.positions).graph.nodes


def changed(
    path: Path, plugins: Plugins, missing: tuple[str, ...], shapes: dict[str, Any], keys: dict[str, Any]
) -> Path:
    """The file without some tensors, with others of another shape, and other metadata."""
    target = path.with_suffix(".broken.gguf")
    types = types_by_id(plugins.quant_types)
    with open_gguf(path) as file:
        own = {f"{file.metadata['general.architecture']}.{key}": value for key, value in keys.items()}
        metadata = {key: value for key, value in {**file.metadata, **own}.items() if value is not None}
        tensors: dict[str, Any] = {
            name: RawTensor(file.raw(name, types[info.ggml_id]).tobytes(), info.ggml_id, info.shape)
            for name, info in file.tensors.items()
            if name not in missing
        }
    tensors |= {name: np.zeros(shape, np.float16) for name, shape in shapes.items()}
    write_gguf(target, metadata, tensors)
    return target
