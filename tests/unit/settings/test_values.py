"""What each setting takes, and how a wrong value is reported."""

import pytest
from pydantic import ValidationError

from shimmy.errors import ConfigError
from shimmy.settings import Address, Settings, load_settings, settings_table
from shimmy.settings.problems import OBSOLETE_VALUES
from shimmy.settings.values import parse_size


@pytest.mark.parametrize(
    ("key", "low", "high"),
    [
        ("port", 1, 65535),
        ("threads", 1, 256),
        ("max_ctx", 512, 131072),
        ("max_sequences", 1, 1024),
        ("step_tokens", 1, 8192),
        ("max_loaded_models", 1, 64),
    ],
)
def test_ranges(key: str, low: int, high: int):
    for good in (low, high, str(low)):
        assert getattr(load_settings({key: good}), key) == int(good)
    for bad in (low - 1, high + 1, "many", 1.5, True):
        with pytest.raises(ConfigError, match=f"a whole number from {low} to {high}"):
            load_settings({key: bad})


def test_an_error_names_key_value_source_and_range(monkeypatch):
    monkeypatch.setenv("SHIMMY_MAX_CTX", "100")
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert caught.value.message == (
        "max_ctx is '100' (from SHIMMY_MAX_CTX); expected a whole number from 512 to 131072 or auto."
    )
    assert caught.value.param == "max_ctx"


def test_all_wrong_values_are_reported_at_once():
    with pytest.raises(ConfigError, match=r"(?s)threads is '0' .*\nlog_level is 'loud' \(from --log-level\)"):
        load_settings({"threads": "0", "log_level": "loud"})


def test_wrong_arguments_of_the_model_are_errors_of_the_same_kind():
    with pytest.raises(
        ConfigError, match=r"(?s)threads is 0 \(from default\); .*max_cxt is 1 .*not permitted"
    ):
        Settings(max_cxt=1, threads=0)


@pytest.mark.parametrize("key", ["threads", "max_ctx", "kv_memory"])
def test_auto_is_a_spelling_of_not_given(key: str):
    assert getattr(load_settings({key: "auto"}), key) is None


@pytest.mark.parametrize(
    ("key", "value"), [("frontends", "openai"), ("host", 5), ("strict_plugins", "maybe")]
)
def test_wrong_types_in_a_file(key: str, value: object, tmp_path):
    file = tmp_path / "x.toml"
    file.write_text(f"{key} = {value!r}")
    with pytest.raises(ConfigError, match=f"{key} is {value!r} .*x.toml.*; expected"):
        load_settings(config=file)


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GiB", 2**31), ("512MB", 512 * 10**6), ("1.5 gib", 3 * 2**29), ("64mib", 2**26), ("1048576", 2**20)],
)
def test_sizes(text: str, size: int):
    assert parse_size(text) == size
    assert load_settings({"kv_memory": text}).kv_memory == size


@pytest.mark.parametrize("text", ["5x", "GiB", "-2GiB", "1023", "2i"])
def test_what_is_no_size(text: str):
    with pytest.raises(ConfigError, match="kv_memory is .*at least 1MiB"):
        load_settings({"kv_memory": text})


@pytest.mark.parametrize(("key", "value"), sorted(OBSOLETE_VALUES))
def test_obsolete_values_say_what_became_of_them(key: str, value: str):
    with pytest.raises(ConfigError, match=f"{key} is '{value}' .*'auto'"):
        load_settings({key: value})


def test_settings_are_frozen():
    with pytest.raises(ValidationError):
        Settings().host = "0.0.0.0"


@pytest.mark.parametrize(
    ("flags", "address"),
    [
        ({}, Address("127.0.0.1", None)),
        ({"port": "8000"}, Address("127.0.0.1", 8000)),
        ({"host": "0.0.0.0"}, Address("0.0.0.0", None)),
        ({"bind_address": "0.0.0.0:80", "port": "8000"}, Address("0.0.0.0", 80)),
        ({"bind_address": "[::1]:80"}, Address("::1", 80)),
        ({"bind_address": "auto", "host": "0.0.0.0"}, Address("127.0.0.1", None)),
    ],
)
def test_address(flags: dict, address: Address):
    assert load_settings(flags).address == address


def test_a_port_flag_beats_a_bind_variable(monkeypatch):
    monkeypatch.setenv("SHIMMY_BIND_ADDRESS", "0.0.0.0:80")
    assert load_settings().address == ("0.0.0.0", 80)
    assert load_settings({"port": "8000"}).address == ("127.0.0.1", 8000)


@pytest.mark.parametrize("text", ["localhost", ":80", "localhost:0", "localhost:http", "::1:80", "a:65536"])
def test_what_is_no_bind_address(text: str):
    with pytest.raises(ConfigError, match="expected HOST:PORT"):
        load_settings({"bind_address": text})


def test_the_plugin_choice_comes_from_the_settings():
    flags = {"plugins.enabled": ["a"], "plugins.disabled": "b,c", "strict_plugins": True}
    choice = load_settings(flags).plugin_choice
    assert (choice.enabled, choice.disabled, choice.strict) == (("a",), ("b", "c"), True)


def test_one_name_in_four_spellings():
    info = settings_table()["max_ctx"]
    assert (info.flag, info.variable, info.key) == ("--max-ctx", "SHIMMY_MAX_CTX", "max_ctx")
    assert len({info.flag for info in settings_table().values()}) == len(settings_table())


def test_a_wrong_secret_is_not_shown(tmp_path):
    file = tmp_path / "secret.toml"
    file.write_text("api_key = 271828")
    with pytest.raises(ConfigError, match="api_key is a secret not shown here") as caught:
        load_settings(config=file)
    assert "271828" not in str(caught.value)
