import pytest

from shimmy.discovery.kinds import why_not_a_language_model

LLM = {"tokenizer.ggml.model": "gpt2"}


@pytest.mark.parametrize(
    ("architecture", "metadata", "reason"),
    [
        ("llama", LLM, None),
        ("llama", LLM | {"general.type": "model", "llama.pooling_type": 0}, None),
        ("llama", LLM | {"llama.attention.causal": True}, None),
        ("llama", LLM | {"general.type": "adapter"}, "its general.type is 'adapter'"),
        ("clip", {"general.type": "mmproj"}, "its general.type is 'mmproj'"),
        ("clip", {"clip.has_vision_encoder": True}, "turns images into input of another model"),
        ("clip", {"clip.has_audio_encoder": True}, "turns sound into input"),
        ("clip", {"clip.projector_type": "mlp"}, "'clip.projector_type'"),
        ("whisper", LLM | {"whisper.encoder.mels_count": 80}, "turns speech into text"),
        ("flux", {}, "it has no vocabulary ('flux')"),
        ("bert", LLM | {"bert.pooling_type": 1}, "turns text into embeddings"),
        ("nomic-bert", LLM | {"nomic-bert.attention.causal": False}, "reads texts as a whole"),
        ("qwen3", LLM | {"qwen3.pooling_type": 4}, "sorts or ranks texts"),
        ("bert", LLM | {"bert.classifier.output_labels": ["yes", "no"]}, "sorts or ranks texts"),
        ("llama", LLM | {"general.type": "x" * 1000}, "its general.type is 'xxx"),
    ],
)
def test_what_files_are_for(architecture, metadata, reason):
    found = why_not_a_language_model(architecture, metadata)
    assert found == reason if reason is None else reason in found
    assert found is None or len(found) < 200
