from dataclasses import replace
from pathlib import Path

import pytest

from shimmy.discovery.catalog import FoundModel
from shimmy.discovery.names import name_models


def at(path: str, name: str | None = None) -> FoundModel:
    return FoundModel(name or Path(path).stem, Path(path), "test")


def names(*models: FoundModel) -> list[str]:
    """The names given, in the order of ``models``."""
    known, _ = name_models(models)
    return [next(name for name, found in known.items() if found is model) for model in models]


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("SmolLM2-135M-Instruct.Q4_1", "SmolLM2-135M-Instruct"),
        ("tiny.q4_k_m", "tiny"),
        ("tiny-IQ3_XXS", "tiny"),
        ("tiny_TQ1_0", "tiny"),
        ("tiny.BF16", "tiny"),
        ("tiny.f32", "tiny"),
        ("tiny-MXFP4", "tiny"),
        ("tiny-7B", "tiny-7B"),
        ("tiny-v2", "tiny-v2"),
        ("phi-2", "phi-2"),
        ("Q4_0", "Q4_0"),
    ],
)
def test_quantisation_is_left_out(stem: str, name: str):
    assert names(at(f"/a/{stem}.gguf")) == [name]


def test_quantisation_tells_apart_where_it_must():
    models = at("/a/tiny.Q4_0.gguf"), at("/a/tiny.Q8_0.gguf"), at("/a/big.Q4_0.gguf")
    assert names(*models) == ["tiny.Q4_0", "tiny.Q8_0", "big"]


def test_folders_tell_apart_where_they_must():
    models = at("/x/a/tiny.Q4_0.gguf"), at("/x/b/tiny.Q4_0.gguf")
    assert names(*models) == ["a/tiny.Q4_0", "b/tiny.Q4_0"]
    assert names(at("/x/m/tiny.gguf"), at("/y/m/tiny.gguf")) == ["x/m/tiny", "y/m/tiny"]


def test_names_do_not_depend_on_the_order():
    models = [at("/a/tiny.Q4_0.gguf"), at("/b/tiny.Q4_0.gguf"), at("/a/tiny.Q8_0.gguf"), at("/a/tiny.gguf")]
    known, _ = name_models(models)
    assert name_models(models[::-1])[0] == known
    assert len(known) == 4


def test_a_name_made_by_the_source_stays_whole():
    assert names(at("/blobs/sha256-12", "tiny:8b-q4_0")) == ["tiny:8b-q4_0"]


def test_files_that_differ_in_their_suffix_only():
    assert names(at("/a/tiny.gguf"), at("/a/tiny.GGUF")) == ["/a/tiny.gguf", "/a/tiny.GGUF"]


def test_parts_of_split_models_are_no_part_of_the_name():
    assert names(at("/a/tiny-Q8_0-00001-of-00002.gguf", "tiny-Q8_0")) == ["tiny"]


@pytest.mark.parametrize("stem", ["model", "ggml-model-Q4_0", "Q4_K_M", "model.f16"])
def test_files_without_a_name_take_that_of_their_namespace(stem: str):
    assert names(replace(at(f"/a/{stem}.gguf"), namespace="acme/Tiny-1B-GGUF")) == ["Tiny-1B"]
    assert names(at("/a/Q4_0.gguf")) == ["Q4_0"]


def test_namespaces_tell_apart_and_then_sources():
    one = replace(at("/hub/snapshots/1/tiny.gguf"), namespace="acme/tiny-gguf")
    other = replace(at("/hub/snapshots/2/tiny.gguf"), namespace="rival/tiny-gguf")
    assert names(one, other) == ["acme/tiny-gguf/tiny", "rival/tiny-gguf/tiny"]
    twin = replace(one, path=Path("/b/tiny.gguf"), source="second")
    assert names(one, twin) == ["test:acme/tiny-gguf/tiny", "second:acme/tiny-gguf/tiny"]


def test_aliases_of_sources_count_where_they_are_clear():
    tiny = replace(at("/blobs/1", "tiny:latest"), aliases=("tiny",))
    assert name_models([tiny])[1]["tiny"] is tiny
    named = at("/a/tiny.gguf")
    assert name_models([tiny, named])[0]["tiny"] is named


def test_two_sources_may_give_one_name():
    assert len(set(names(at("/a/1", "tiny"), at("/b/2", "tiny"), at("/c/tiny.gguf")))) == 3


def test_unambiguous_longer_spellings_are_aliases():
    tiny, big = at("/a/tiny.Q4_0.gguf"), at("/a/big.gguf")
    _, aliases = name_models([tiny, big])
    assert aliases["tiny.Q4_0"] is tiny
    assert aliases["a/big"] is big


def test_ambiguous_spellings_are_no_aliases():
    _, aliases = name_models([at("/a/tiny.Q4_0.gguf"), at("/a/tiny.Q8_0.gguf")])
    assert "tiny" not in aliases
