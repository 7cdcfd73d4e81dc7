"""Fields that requests for language models have elsewhere and shimmy cannot honour.

Each with the values that change nothing; every other value is refused by name. All frontends take
:data:`EVERYWHERE`, whatever server their clients were written for, and add what only their API lacks.
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
    "typ_p": neutral(1),
    "tfs_z": neutral(1),
    "top_n_sigma": neutral(0, -1),
    "xtc_probability": neutral(0),
    "dynatemp_range": neutral(0),
    "dry_multiplier": neutral(0),
    # Penalties count the whole sequence.
    "repeat_last_n": neutral(-1),
    "penalize_newline": neutral(True),
    "penalize_nl": neutral(True),
    "bad_words": neutral([]),
    "banned_tokens": neutral("", []),
    "allowed_token_ids": neutral([]),
    "do_sample": neutral(True),
    "random_seed": neutral(),
    "num_beams": neutral(1),
    "use_beam_search": neutral(False),
    "length_penalty": neutral(1),
    "ignore_eos": neutral(False),
    "min_tokens": neutral(0),
    "stop_token_ids": neutral([]),
    "logits_processors": neutral([]),
    "samplers": neutral(),
}

#: How long answers are, and what is told beside them.
ANSWERS: Rules = {
    "n_predict": neutral(-1),
    "max_new_tokens": neutral(),
    "stop_sequences": neutral([]),
    "include_stop_str_in_output": neutral(False),
    "n_probs": neutral(0),
    "prompt_logprobs": neutral(),
    "echo": neutral(False),
    "best_of": neutral(1),
    "modalities": neutral([], ["text"]),
    "audio": neutral(),
    "verbosity": neutral("medium"),
    "web_search_options": neutral(),
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
    "regex": neutral(""),
    "ebnf": neutral(""),
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
    "reasoning": neutral({}, {"effort": "none"}, {"enabled": False}),
    "think": neutral(False),
    "thinking": neutral(False, {"type": "disabled"}),
    "enable_thinking": neutral(False),
    "documents": neutral([]),
    "template": neutral(""),
    "context": neutral([]),
    "truncate_prompt_tokens": neutral(-1),
    "adapter": neutral(""),
}

EVERYWHERE: Rules = {**SAMPLERS, **ANSWERS, **TOOLS, **FORMATS, **PROMPTS}
