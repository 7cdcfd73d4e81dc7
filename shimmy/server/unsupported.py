"""Fields that requests for language models have elsewhere and shimmy cannot honour.

Each with the values that change nothing; every other value is refused by name. Frontends take the
tables that fit their API and add their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from shimmy.server.body import neutral

Rules: TypeAlias = Mapping[str, Callable[[Any], bool]]

#: Ways to choose tokens.
SAMPLERS: Rules = {
    "mirostat": neutral(0),
    "typical_p": neutral(1),
    "tfs_z": neutral(1),
    "top_n_sigma": neutral(0, -1),
    "xtc_probability": neutral(0),
    "dynatemp_range": neutral(0),
    "dry_multiplier": neutral(0),
    # Penalties count the whole sequence.
    "repeat_last_n": neutral(-1),
    "penalize_newline": neutral(True),
    "ignore_eos": neutral(False),
    "min_tokens": neutral(0),
    "stop_token_ids": neutral([]),
    "logits_processors": neutral([]),
    "samplers": neutral(),
}

#: Answers that call functions.
TOOLS: Rules = {
    "tools": neutral([]),
    "tool_choice": neutral("none", "auto"),
    "functions": neutral([]),
    "function_call": neutral("none", "auto"),
}

#: Answers of a given form.
FORMATS: Rules = {
    "response_format": neutral({"type": "text"}),
    "format": neutral(""),
    "json_schema": neutral({}),
    "grammar": neutral(""),
    "structured_outputs": neutral({}),
    "guided_json": neutral(),
    "guided_regex": neutral(),
    "guided_choice": neutral(),
    "guided_grammar": neutral(),
}

#: Prompts that are made in another way.
PROMPTS: Rules = {
    "suffix": neutral(""),
    "images": neutral([]),
    "chat_template": neutral(),
    "chat_template_kwargs": neutral({}),
    "add_generation_prompt": neutral(True),
    "continue_final_message": neutral(False),
    "reasoning_effort": neutral("none"),
}
