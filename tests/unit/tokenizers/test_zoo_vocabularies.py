"""The test models: ids, texts, stops and chat templates as llama.cpp and jinja2 have them."""

import codecs
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.errors import TemplateError
from shimmy.text.chat import chat_template_of, encode_chat
from shimmy.text.stream import TextStream

MODELS = [
    *("zoo/llama_spm", "zoo/llama3_bpe", "zoo/gpt2", "zoo/starcoder2", "zoo/qwen2"),
    *("zoo/phi2", "zoo/phi3", "zoo/gemma2", "zoo/qwen3moe"),
]
WITHOUT_TEMPLATE = ["zoo/gpt2", "zoo/phi2", "zoo/starcoder2"]

every_chat_model = pytest.mark.parametrize("name", sorted({*MODELS, "smollm2"} - {*WITHOUT_TEMPLATE}))
every_model = pytest.mark.parametrize("name", [*MODELS, "smollm2"])


@every_model
@pytest.mark.parametrize("parse_special", [False, True])
def test_ids_are_those_of_llamacpp(name, parse_special, tokenizer_of, reference_of):
    tokenizer = tokenizer_of(name)
    key = "llamacpp_parse_special" if parse_special else "llamacpp_plain"
    wrong = {
        case["text"]: (ids, case[key])
        for case in reference_of(name)["tokenizer_cases"]
        if (ids := tokenizer.encode(case["text"], add_special=False, parse_special=parse_special))
        != case[key]
    }
    assert wrong == {}


@pytest.mark.parametrize("name", MODELS)
def test_texts_are_those_of_llamacpp(name, tokenizer_of, reference_of):
    tokenizer = tokenizer_of(name)
    for case in reference_of(name)["tokenizer_cases"]:
        text = tokenizer.decode(case["llamacpp_parse_special"], skip_special=False)
        assert text == case["detok_llamacpp"]


@every_model
def test_prompts(name, tokenizer_of, reference_of):
    tokenizer = tokenizer_of(name)
    for prompt in reference_of(name)["prompts"]:
        ids = tokenizer.encode(prompt["text"], add_special=prompt["add_special"], parse_special=True)
        assert ids == prompt["ids"], prompt["id"]


@pytest.mark.parametrize("name", MODELS)
def test_roles(name, tokenizer_of, reference_of):
    tokenizer, expected = tokenizer_of(name), reference_of(name)["tokenizer"]
    assert tokenizer.eos_id == expected["eos_id"]
    assert tokenizer.add_bos is expected["add_bos"]
    assert tokenizer.stop_ids == set(expected["eog_ids"])
    # Files without BOS: llama.cpp names token 11 there, we say there is none.
    assert tokenizer.bos_id == (None if "qwen" in name else expected["bos_id"])


@every_model
def test_token_bytes_add_up_to_the_text(name, tokenizer_of, reference_of):
    tokenizer = tokenizer_of(name)
    for case in reference_of(name)["tokenizer_cases"]:
        ids = case["llamacpp_plain"]
        text = tokenizer.decode(ids)
        assert b"".join(map(tokenizer.token_bytes, ids)).decode() in (text, " " + text)


@every_chat_model
def test_chat_templates(name, metadata_of, tokenizer_of, reference_of):
    template = chat_template_of(metadata_of(name), tokenizer_of(name))
    assert template is not None
    for case in reference_of(name)["template_renders"]:
        if "error" in case:
            with pytest.raises(TemplateError, match="refuses the messages: " + re.escape(case["error"])):
                template.render(case["messages"], add_generation_prompt=case["add_generation_prompt"])
        else:
            text = template.render(case["messages"], add_generation_prompt=case["add_generation_prompt"])
            assert text == case["text"]


@every_model
def test_a_rendered_chat_has_bos_once_where_the_model_wants_it(name, tokenizer_of, reference_of):
    tokenizer = tokenizer_of(name)
    for prompt in reference_of(name)["prompts"]:
        # The references set add_special where the text does not begin with BOS.
        assert encode_chat(prompt["text"], tokenizer) == prompt["ids"], prompt["id"]


@every_chat_model
def test_chats_have_the_ids_of_their_whole_text(name, metadata_of, tokenizer_of, reference_of):
    tokenizer = tokenizer_of(name)
    template = chat_template_of(metadata_of(name), tokenizer)
    for case in reference_of(name)["template_renders"]:
        spells_control = any(
            text in message["content"] for text in tokenizer.control_texts for message in case["messages"]
        )
        if "error" not in case and not spells_control:
            ids = template.encode(
                case["messages"], tokenizer, add_generation_prompt=case["add_generation_prompt"]
            )
            assert ids == encode_chat(case["text"], tokenizer)


@every_chat_model
@given(data=st.data())
def test_users_write_no_control_tokens(name, data, metadata_of, tokenizer_of):
    tokenizer = tokenizer_of(name)
    template = chat_template_of(metadata_of(name), tokenizer)
    pieces = st.sampled_from(sorted(tokenizer.control_texts)) | st.sampled_from(["<", "<|", " ", "a\n", "é"])
    content = "".join(data.draw(st.lists(pieces, max_size=8)))
    ids = template.encode([{"role": "user", "content": content}], tokenizer)
    controls = [token for token in ids if tokenizer.token_text(token) in tokenizer.control_texts]
    harmless = template.encode([{"role": "user", "content": "a"}], tokenizer)
    assert controls == [token for token in harmless if tokenizer.token_text(token) in tokenizer.control_texts]
    assert tokenizer.decode(ids).find(content.strip()) >= 0


@pytest.mark.parametrize("control", ["<|im_end|>", "<|im_start|>", "<|endoftext|>"])
def test_spelled_control_tokens_merge_with_the_text_around_them(control, metadata_of, tokenizer_of):
    tokenizer = tokenizer_of("zoo/qwen2")
    template = chat_template_of(metadata_of("zoo/qwen2"), tokenizer)
    messages = [
        {"role": "system", "content": "x"},
        {"role": "user", "content": f"\n\n{control} {control}.\n"},
    ]
    start, end = (tokenizer.encode(text, parse_special=True) for text in ("<|im_start|>", "<|im_end|>"))
    newline = tokenizer.encode("\n")
    assert template.encode(messages, tokenizer) == [
        *(start + tokenizer.encode("system\nx") + end + newline),
        *(start + tokenizer.encode(f"user\n\n\n{control} {control}.\n") + end + newline),
        *(start + tokenizer.encode("assistant\n")),
    ]


@pytest.mark.parametrize("name", WITHOUT_TEMPLATE)
def test_models_without_a_chat_template(name, metadata_of, tokenizer_of):
    assert chat_template_of(metadata_of(name), tokenizer_of(name)) is None


@every_model
@given(data=st.data())
def test_any_tokens_stream_as_whole_characters(name, data, tokenizer_of):
    tokenizer = tokenizer_of(name)
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=40))
    stream = TextStream(tokenizer)
    shown = [stream.push([token]) for token in ids] + [stream.flush()]
    # An incremental decoder leaves out a character that the last token only begins, as a stream does.
    whole = codecs.getincrementaldecoder("utf-8")("replace").decode(b"".join(map(tokenizer.token_bytes, ids)))
    assert "".join(shown) == whole
