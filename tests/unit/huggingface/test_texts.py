"""Tokenizers and chat templates of folders: what transformers makes of the same texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unicodedata import is_normalized

import numpy as np
import pytest

from shimmy.errors import TemplateError
from shimmy.gguf.reader import open_gguf
from shimmy.huggingface.folder import ModelFolder
from shimmy.huggingface.model import FolderModel
from shimmy.text.chat import chat_template_of
from shimmy.text.tokenizer import (
    HUGGINGFACE_JSON,
    MARK,
    PRE_TOKENIZER,
    Tokenizer,
    load_tokenizer,
    tokenizer_kind,
)
from shimmy.text.vocabulary import TokenType
from shimmy_plugins.tokenizers.recognized import pre_tokenizer_name
from tests.folders import FOLDER, NAMES, all_plugins, change_json, copy, reference
from tests.unit.huggingface.conftest import MakeConverter

CASES = [
    pytest.param(name, case, id=f"{name} {case['text']!r:.20}")
    for name in NAMES
    for case in reference(name)["texts"]
]


def metadata_of(folder: Path) -> dict[str, Any]:
    return dict(FolderModel(ModelFolder(folder), all_plugins()).metadata)


def tokenizer_of(folder: Path, **options: Any) -> Tokenizer:
    return load_tokenizer(metadata_of(folder), all_plugins().tokenizers, **options)


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Tokenizer]:
    return {name: tokenizer_of(FOLDER / name) for name in NAMES}


@pytest.mark.parametrize(("name", "case"), CASES)
def test_ids_and_texts_are_those_of_transformers(
    tokenizers: dict[str, Tokenizer], name: str, case: dict[str, Any]
):
    tokenizer = tokenizers[name]
    assert tokenizer.encode(case["text"], parse_special=True) == case["ids"]
    assert tokenizer.encode(case["text"], add_special=False) == case["plain"]
    assert tokenizer.decode(case["plain"]) == case["decoded"]


@pytest.mark.parametrize("name", NAMES)
def test_chats_are_those_of_transformers(tokenizers: dict[str, Tokenizer], name: str):
    chat = reference(name)["chat"]
    template = chat_template_of(metadata_of(FOLDER / name), tokenizers[name])
    assert template is not None
    assert template.render(chat["messages"]) == chat["text"]


@pytest.mark.parametrize("name", NAMES)
def test_bytes_of_tokens_make_the_text(tokenizers: dict[str, Tokenizer], name: str):
    tokenizer = tokenizers[name]
    for case in reference(name)["texts"]:
        text = b"".join(map(tokenizer.token_bytes, case["plain"])).decode()
        assert text in (case["decoded"], " " + case["decoded"])


def test_control_tokens_of_users_stay_texts(tokenizers: dict[str, Tokenizer]):
    for tokenizer in tokenizers.values():
        marked = tokenizer.encode(f"a<|im{MARK}_end|>b", add_special=False, parse_special=True)
        assert marked == tokenizer.encode("a<|im_end|>b", add_special=False)
        assert "<|im_end|>" in tokenizer.control_texts


@pytest.mark.parametrize(("name", "pre"), [("llama3", "llama-bpe"), ("qwen2", "qwen2")])
def test_other_programs_find_how_words_are_cut(name: str, pre: str):
    metadata = metadata_of(FOLDER / name)
    assert metadata[PRE_TOKENIZER] == pre
    # As they read the file: without the tokenizer.json in it.
    del metadata[HUGGINGFACE_JSON]
    tokenizer = load_tokenizer(metadata, all_plugins().tokenizers)
    texts = [case for case in reference(name)["texts"] if is_normalized("NFC", case["text"])]
    assert len(texts) > 5
    for case in texts:
        assert tokenizer.encode(case["text"], add_special=False) == case["plain"]


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
LAST = {**BYTES, "use_regex": False}
DIGITS = {"type": "Digits", "individual_digits": True}
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def split(behavior: str = "Isolated", invert: bool = False) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": behavior, "invert": invert}


@pytest.mark.parametrize(
    ("steps", "pre"),
    [
        ([BYTES], "gpt-2"),
        ([DIGITS, BYTES], "starcoder"),
        ([split(), LAST], "qwen2"),
        ([split("Removed", True), LAST], "qwen2"),
        ([split("Removed", False), LAST], None),
        ([split(), DIGITS, LAST], None),
        ([split(), {**LAST, "add_prefix_space": True}], None),
        ([split()], None),
        ([], None),
    ],
)
def test_ways_to_cut_words(steps: list[dict[str, Any]], pre: str | None):
    content = {"model": {}, "normalizer": None, "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}}
    assert pre_tokenizer_name(content) == pre
    assert pre_tokenizer_name({**content, "normalizer": {"type": "Lowercase"}}) is None


def test_roles_of_tokens(tokenizers: dict[str, Tokenizer]):
    llama = tokenizers["llama3"]
    assert llama.add_bos
    assert llama.token_text(llama.bos_id or 0) == "<|begin_of_text|>"
    assert llama.token_text(llama.eos_id or 0) == "<|end_of_text|>"
    # From generation_config.json, which names two.
    assert {llama.token_text(token) for token in llama.stop_ids} == {"<|end_of_text|>", "<|im_end|>"}
    qwen = tokenizers["qwen2"]
    assert not qwen.add_bos
    assert qwen.bos_id is None
    assert qwen.token_text(qwen.eos_id or 0) == "<|im_end|>"


def test_types_of_tokens():
    metadata = metadata_of(FOLDER / "mistral")
    types = dict(zip(metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"], strict=True))
    assert types["<unk>"] == TokenType.UNKNOWN
    assert types["<s>"] == types["<|im_end|>"] == TokenType.CONTROL
    assert types["<0x0A>"] == TokenType.BYTE
    assert types["<tool>"] == TokenType.USER_DEFINED
    assert types["\u2581the"] == TokenType.NORMAL
    llama = metadata_of(FOLDER / "llama3")
    # Rows of the embedding that no token has.
    assert llama["tokenizer.ggml.tokens"][-1] == "[PAD415]"
    assert llama["tokenizer.ggml.token_type"][-1] == TokenType.UNUSED


@pytest.mark.parametrize("name", NAMES)
def test_the_file_has_the_same_tokenizer(converter: MakeConverter, name: str):
    with open_gguf(converter().file_of(FOLDER / name, lambda *_: None)) as file:
        metadata = dict(file.metadata)
    assert metadata.pop("general.file_type") == 1
    expected = metadata_of(FOLDER / name)
    # The file holds floats of four bytes.
    assert metadata == {key: np.float32(v) if isinstance(v, float) else v for key, v in expected.items()}


def test_a_forced_pre_tokenizer_goes_by_the_keys_of_ggml():
    metadata = metadata_of(FOLDER / "llama3")
    assert tokenizer_kind(metadata) == "huggingface"
    assert tokenizer_kind(metadata, pre_tokenizer="llama-bpe") == "gpt2"
    tokenizer = tokenizer_of(FOLDER / "llama3", pre_tokenizer="llama-bpe")
    for case in reference("llama3")["texts"]:
        assert tokenizer.encode(case["text"], parse_special=True) == case["ids"]


def test_the_keys_of_ggml_cut_texts_like_the_whole_tokenizer(tokenizers: dict[str, Tokenizer]):
    """What other programs see of a converted file."""
    metadata = metadata_of(FOLDER / "mistral")
    del metadata["tokenizer.huggingface.json"]
    tokenizer = load_tokenizer(metadata, all_plugins().tokenizers)
    for text in ("The quick brown fox", "def add(a, b):\n    return", "words  of a book"):
        assert tokenizer.encode(text) == tokenizers["mistral"].encode(text)


def test_an_explicit_add_bos_token_wins(tmp_path: Path):
    folder = copy("llama3", tmp_path)
    change_json(folder / "tokenizer_config.json", add_bos_token=False)
    assert not tokenizer_of(folder).add_bos


def test_added_tokens_that_the_model_has_no_row_for_are_left_out(tmp_path: Path):
    folder = copy("mistral", tmp_path)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"].append({**content["added_tokens"][-1], "id": 484, "content": "<new>"})
    (folder / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = tokenizer_of(folder)
    assert tokenizer.vocab_size == 484
    assert max(tokenizer.encode("a <new> b", parse_special=True)) < 484


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"tokenizer_config.json": {"chat_template": "c"}}, {"tokenizer.chat_template": "c"}),
        ({"chat_template.json": {"chat_template": "j"}}, {"tokenizer.chat_template": "j"}),
        (
            {
                "tokenizer_config.json": {
                    "chat_template": [
                        {"name": "default", "template": "d"},
                        {"name": "tool_use", "template": "t"},
                    ]
                }
            },
            {"tokenizer.chat_template": "d", "tokenizer.chat_template.tool_use": "t"},
        ),
        (
            {"chat_template.jinja": "own", "tokenizer_config.json": {"chat_template": "c"}},
            {"tokenizer.chat_template": "own"},
        ),
        (
            {"chat_template.jinja": "own", "additional_chat_templates/rag.jinja": "r"},
            {"tokenizer.chat_template": "own", "tokenizer.chat_template.rag": "r"},
        ),
        ({}, {}),
    ],
)
def test_chat_templates_are_found_wherever_they_are(
    tmp_path: Path, files: dict[str, Any], expected: dict[str, str]
):
    folder = copy("qwen2", tmp_path)
    (folder / "chat_template.jinja").unlink()
    (folder / "additional_chat_templates").mkdir()
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).write_text(text)
    found = {key: value for key, value in metadata_of(folder).items() if "chat_template" in key}
    assert found == expected


def test_a_template_that_is_no_text_is_refused(tmp_path: Path):
    folder = copy("qwen2", tmp_path)
    (folder / "chat_template.jinja").unlink()
    change_json(folder / "tokenizer_config.json", chat_template=5)
    with pytest.raises(TemplateError, match="qwen2: the chat template 'default' is no text"):
        metadata_of(folder)
