"""Chat templates of model families, for models that carry none: each ``chat/*.jinja`` is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from shimmy import hookimpl
from shimmy.specs import ChatTemplateSpec


class _Rule(NamedTuple):
    """The fields of a :class:`ChatTemplateSpec` beside its name and source."""

    tokens: tuple[str, ...] = ()
    model_names: str = ""
    stops: tuple[str, ...] = ()


_RULES = {
    "alpaca": _Rule(model_names=r"\balpaca\b", stops=("\n### Instruction:",)),
    "chatml": _Rule(tokens=("<|im_start|>", "<|im_end|>")),
    "gemma": _Rule(tokens=("<start_of_turn>", "<end_of_turn>")),
    "llama2": _Rule(model_names=r"\bllama-?2-.*\bchat\b"),
    "llama3": _Rule(tokens=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
    "mistral": _Rule(model_names=r"\bmi[sx]tral\b.*\binstruct\b"),
    "openchat": _Rule(model_names=r"\b(openchat|starling)\b"),
    "phi": _Rule(tokens=("<|user|>", "<|assistant|>", "<|end|>")),
    "vicuna": _Rule(model_names=r"\bvicuna\b", stops=("USER:",)),
    "zephyr": _Rule(model_names=r"\bzephyr\b|\btinyllama\b.*\bchat\b"),
}


@hookimpl
def register_chat_templates(register: Callable[[ChatTemplateSpec], None]) -> None:
    from importlib.resources import files  # 10 ms, of use to the server only

    folder = files("shimmy_templates") / "chat"
    for name, rule in _RULES.items():
        register(ChatTemplateSpec(name=name, source=folder / f"{name}.jinja", **rule._asdict()))
