"""What a token costs at least: bytes that must be read, and operations that must be done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shimmy.gguf.reader import open_gguf
from shimmy.registry import Registry
from shimmy.specs import QuantTypeSpec
from shimmy_plugins.commands.bench.workload import Case

_EMBEDDING, _OUTPUT = "token_embd.weight", "output.weight"
#: A row of it is read, not all.
_POSITIONS = "position_embd.weight"


@dataclass(frozen=True, slots=True)
class Costs:
    """Sizes of a model's matrices; those that every token meets, and the output matrix."""

    layer_bytes: float
    layer_elements: float
    head_bytes: float
    head_elements: float
    kv_bytes: int
    """Of one position."""

    def bytes_read(self, case: Case) -> float | None:
        """In one decode sample: the weights once per step, each sequence's keys and values as they grow.

        None for a prefill, which uses each byte read for many tokens.
        """
        if case.test == "prefill":
            return None
        positions = case.depth + case.tokens / 2
        return case.tokens * (self.layer_bytes + self.head_bytes + case.batch * positions * self.kv_bytes)

    def operations(self, case: Case) -> float:
        """In one sample: a multiplication and an addition per weight; attention is not counted."""
        outputs = 1 if case.test == "prefill" else case.tokens
        return 2.0 * case.batch * (case.tokens * self.layer_elements + outputs * self.head_elements)


def read_costs(path: Path, quant_types: Registry[QuantTypeSpec], kv_bytes: int) -> Costs:
    """Weigh the tensors of a file, as they stand in it."""
    by_id = {spec.ggml_id: spec for spec in quant_types}
    # Bytes and elements of (layers, head).
    size, elements = [0.0, 0.0], [0.0, 0.0]
    with open_gguf(path) as file:
        architecture = file.metadata.get("general.architecture")
        experts = file.metadata.get(f"{architecture}.expert_count") or 1
        used = file.metadata.get(f"{architecture}.expert_used_count") or experts
        for name, info in file.tensors.items():
            unread = name == _POSITIONS or (name == _EMBEDDING and _OUTPUT in file.tensors)
            if len(info.shape) < 2 or unread:
                continue
            share = used / experts if len(info.shape) > 2 else 1.0
            part = 1 if name in (_EMBEDDING, _OUTPUT) else 0
            size[part] += share * file.n_bytes(name, by_id[info.ggml_id])
            elements[part] += share * info.rows * info.columns
    return Costs(size[0], elements[0], size[1], elements[1], kv_bytes)
