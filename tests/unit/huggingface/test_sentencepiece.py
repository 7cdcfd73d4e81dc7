"""Folders that have a ``tokenizer.model`` only: what SentencePiece itself makes of the same texts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shimmy.errors import TokenizerError
from shimmy.huggingface.folder import ModelFolder
from shimmy.huggingface.model import FolderModel
from shimmy.text.tokenizer import Tokenizer, load_tokenizer
from shimmy.text.vocabulary import TokenType
from tests.folders import FOLDER, all_plugins, change_json, copy
from tests.unit.huggingface.conftest import MakeConverter

MODEL = FOLDER / "sentencepiece" / "tokenizer.model"
REFERENCE = json.loads((FOLDER / "sentencepiece" / "reference.json").read_text())
#: Tokens that the model of the folder has.
ROWS = 484


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = copy("mistral", tmp_path)
    (folder / "tokenizer.json").unlink()
    shutil.copy(MODEL, folder)
    return folder


def metadata_of(folder: Path) -> dict[str, Any]:
    return dict(FolderModel(ModelFolder(folder), all_plugins()).metadata)


def tokenizer_of(folder: Path) -> Tokenizer:
    return load_tokenizer(metadata_of(folder), all_plugins().tokenizers)


def test_ids_are_those_of_sentencepiece(folder: Path):
    tokenizer = tokenizer_of(folder)
    for case in REFERENCE["texts"]:
        assert tokenizer.encode(case["text"], add_special=False) == case["ids"]
    assert tokenizer.add_bos
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)


def test_pieces_with_their_scores(folder: Path):
    metadata = metadata_of(folder)
    pieces = list(zip(metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.scores"], strict=True))
    assert [list(piece) for piece in pieces[:400]] == REFERENCE["pieces"]
    assert pieces[400:] == [(f"[PAD{token}]", 0.0) for token in range(400, ROWS)]
    types = metadata["tokenizer.ggml.token_type"]
    assert types[:4] == [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, TokenType.BYTE]
    assert types[399:401] == [TokenType.NORMAL, TokenType.UNUSED]


def test_added_tokens_and_settings(folder: Path):
    (folder / "added_tokens.json").write_text(json.dumps({"<extra>": 400}))
    added = {"401": {"content": "<|end|>", "special": True}, "0": {"content": "<unk>", "special": True}}
    change_json(
        folder / "tokenizer_config.json", added_tokens_decoder=added, eos_token="<|end|>", add_bos_token=False
    )
    tokenizer = tokenizer_of(folder)
    assert not tokenizer.add_bos
    assert tokenizer.eos_id == 401
    assert tokenizer.encode("a<extra>", add_special=False)[-1] == 400
    assert tokenizer.encode("a<|end|>", add_special=False, parse_special=True)[-1] == 401
    types = metadata_of(folder)["tokenizer.ggml.token_type"]
    assert [types[token] for token in (0, 400, 401)] == [
        TokenType.UNKNOWN,
        TokenType.USER_DEFINED,
        TokenType.CONTROL,
    ]


def test_the_folder_is_converted(folder: Path, converter: MakeConverter):
    file = converter("f16").file_of(folder, lambda *_: None)
    # Another vocabulary is another model.
    shutil.copy(FOLDER / "mistral" / "tokenizer.json", folder)
    assert converter("f16").file_of(folder, lambda *_: None) != file


#: Field 3 of message 2, the kind of model, is BPE (2) in the file.
UNIGRAM = (b"\x18\x02", b"\x18\x01")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda content: content[:1000], "is not as SentencePiece writes it .*behind the end"),
        (lambda content: b"", "holds no pieces"),
        (lambda content: b"\xff" * 40, "is not as SentencePiece writes it .*a number without an end"),
        (lambda content: b"\x0f" + content, "is not as SentencePiece writes it .*a field of the kind 7"),
        (lambda content: content.replace(*UNIGRAM), r"its model_type is 1, expected 2 \(BPE\)"),
        (lambda content: content + b"\x1a\x02\x20\x01", "it changes characters or spaces"),
        (lambda content: content.replace(b"<unk>", b"<\xffnk>", 1), "is not as SentencePiece writes it"),
    ],
)
def test_what_is_broken_is_told(folder: Path, change: Callable[[bytes], bytes], problem: str):
    file = folder / "tokenizer.model"
    changed = change(MODEL.read_bytes())
    assert changed != MODEL.read_bytes()
    file.write_bytes(changed)
    with pytest.raises(TokenizerError, match=rf"tokenizer\.model: {problem}"):
        metadata_of(folder)


def test_more_pieces_than_rows(folder: Path):
    change_json(folder / "config.json", vocab_size=300)
    with pytest.raises(TokenizerError, match="has 400 tokens, the model only 300"):
        metadata_of(folder)
