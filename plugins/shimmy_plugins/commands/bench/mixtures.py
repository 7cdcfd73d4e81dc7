"""Which type each matrix of a random model gets: one for all, or a mixture as llama.cpp makes it."""

from __future__ import annotations

from collections.abc import Mapping

from shimmy.specs import QuantTypeSpec
from shimmy_plugins.commands.bench.shapes import Shape

#: name -> (the type of most matrices, that of those that need more bits, that of one for q, k and v)
MIXTURES = {"Q4_K_M": ("Q4_K", "Q6_K", "Q5_K"), "Q5_K_M": ("Q5_K", "Q6_K", "Q6_K")}
#: Matrices that are stored as floats in every file.
FLOATS = ("ffn_gate_inp.weight", "position_embd.weight")
#: Instead of a type whose blocks do not fit a matrix's rows.
SUBSTITUTES = {
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
    **dict.fromkeys(("TQ1_0", "TQ2_0", "Q1_0", "Q2_0"), "Q4_0"),
    **dict.fromkeys(("Q2_K", "Q3_K", "IQ4_XS", "IQ3_S", "IQ3_XXS"), "IQ4_NL"),
    **dict.fromkeys(("IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_S", "IQ1_M"), "IQ4_NL"),
}


def type_of(name: str, columns: int, quant: str, shape: Shape, types: Mapping[str, QuantTypeSpec]) -> str:
    """The type of a matrix; ``types`` are those registered, by name."""
    if name.endswith(FLOATS):
        return "F32"
    chosen = quant
    if quant in MIXTURES:
        usual, better, merged = MIXTURES[quant]
        chosen = better if _needs_more_bits(name, shape) else usual
        if name.endswith("attn_qkv.weight"):
            chosen = merged
    if columns % types[chosen].block_elements and chosen in SUBSTITUTES:
        return SUBSTITUTES[chosen]
    return chosen


def types_used(quant: str) -> tuple[str, ...]:
    """The types that a name of ``--quant`` may put into a file."""
    chosen = MIXTURES.get(quant, (quant,))
    every = (*chosen, *(SUBSTITUTES[each] for each in chosen if each in SUBSTITUTES), "F32")
    return tuple(dict.fromkeys(every))


def _needs_more_bits(name: str, shape: Shape) -> bool:
    """llama.cpp's rule: the output, and attn_v and ffn_down of about half of the blocks."""
    if name == ("token_embd.weight" if shape.tied else "output.weight"):
        return True
    if not name.endswith(("attn_v.weight", "ffn_down.weight", "ffn_down_exps.weight")):
        return False
    block, count = int(name.split(".")[1]), shape.block_count
    eighth = count // 8
    return block < eighth or block >= 7 * count // 8 or (block - eighth) % 3 == 2
