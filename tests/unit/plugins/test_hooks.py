"""Each hook, as its callers meet it. A hook without a ``test_hook_<name>`` here fails the first test."""

from importlib.resources import files
from pathlib import Path

import pytest
import typer

from shimmy import hookimpl, hookspecs
from shimmy.discovery.catalog import FoundModel
from shimmy.events import ModelLoaded, ModelUnloaded, RequestFinished, RequestStarted
from shimmy.plugins import PluginChoice, Plugins, load_plugins
from shimmy.specs import (
    ArchitectureSpec,
    BackendSpec,
    ChatTemplateSpec,
    DiscoverySourceSpec,
    FrontendSpec,
    MetricSpec,
    OpSpec,
    QuantTypeSpec,
    SettingsSpec,
    ShaderSourceSpec,
    TokenizerSpec,
)

HOOKS = sorted(name for name, hook in vars(hookspecs).items() if hasattr(hook, "shimmy_spec"))


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_has_a_test(name: str):
    assert f"test_hook_{name}" in globals()


def load(**hooks) -> Plugins:
    """Plugins with one plugin whose hooks are the given functions."""
    return load_all({name: hookimpl(function) for name, function in hooks.items()})


def load_all(*plugins: dict) -> Plugins:
    """Plugins called plugin0, plugin1, …, each with the given hook implementations."""
    extra = [Made(f"plugin{number}", hooks) for number, hooks in enumerate(plugins)]
    return load_plugins(PluginChoice(enabled=()), extra=extra)


class Made:
    """A plugin made of functions."""

    def __init__(self, name: str, hooks: dict) -> None:
        self.__name__ = name
        vars(self).update(hooks)


def nothing():
    return None


def registered(hook: str, registry: str, spec, *names: str):
    plugins = load(**{hook: lambda register: register(spec)})
    assert plugins.infos[-1].hooks == (hook,)
    for name in names:
        assert getattr(plugins, registry).get(name) is spec
        assert getattr(plugins, registry).owner(name) == "plugin0 (given in process)"


def test_hook_register_architectures():
    registered("register_architectures", "architectures", ArchitectureSpec(("a", "b"), nothing), "a", "b")


def test_hook_register_quant_types():
    registered("register_quant_types", "quant_types", QuantTypeSpec("Q9", 99, 32, 36, nothing), "Q9")


def test_hook_register_tokenizers():
    registered("register_tokenizers", "tokenizers", TokenizerSpec("words", nothing), "words")


def test_hook_register_chat_templates():
    registered("register_chat_templates", "chat_templates", ChatTemplateSpec("irc", Path("irc")), "irc")


def test_hook_register_discovery_sources():
    registered(
        "register_discovery_sources", "discovery_sources", DiscoverySourceSpec("attic", nothing), "attic"
    )


def test_hook_register_api_frontends():
    registered("register_api_frontends", "frontends", FrontendSpec("gopher", (), nothing), "gopher")


def test_hook_register_backends():
    spec = BackendSpec("abacus", -1, nothing, nothing, aliases=("suanpan",))
    registered("register_backends", "backends", spec, "abacus")
    registered("register_backends", "backends", spec, "suanpan")


def test_hook_register_ops():
    registered("register_ops", "ops", OpSpec("twist", nothing), "twist")


def test_hook_register_shader_sources():
    spec = ShaderSourceSpec("acme", files("shimmy_shaders"))
    registered("register_shader_sources", "shader_sources", spec, "acme")


def test_hook_register_settings():
    registered("register_settings", "settings", SettingsSpec("mine", nothing), "mine")


def test_hook_register_metrics():
    registered("register_metrics", "metrics", MetricSpec("fans", "gauge", "Fans on.", float), "fans")


def test_hook_register_commands():
    def register_commands(app):
        app.command("hello")(nothing)

    [(name, app)] = load(register_commands=register_commands).command_apps(typer.Typer)
    assert name == "plugin0"
    assert [command.name for command in app.registered_commands] == ["hello"]


def test_hook_select_backend():
    plugins = load(select_backend=lambda card, available: available[0])
    assert plugins.select_backend("card", ["fast", "slow"]) == "fast"


def test_hook_select_chat_template():
    assert load(select_chat_template=lambda card: f"for {card}").select_chat_template("x") == "for x"


def test_hook_resolve_model():
    found = FoundModel("x", Path("x"), "test")
    assert load(resolve_model=lambda name: found if name == "x" else None).resolve_model("x") is found


def test_hook_handle_error():
    def handle_error(error, request):
        return f"{error} at {request}", 418

    assert load(handle_error=handle_error).handle_error(ValueError("tea"), "/pot") == ("tea at /pot", 418)


def reported(hook: str, argument: str, value: object) -> None:
    seen = []
    functions = {"event": lambda event: seen.append(event), "context": lambda context: seen.append(context)}
    getattr(load(**{hook: functions[argument]}), hook)(value)
    assert seen == [value]


def test_hook_server_started():
    reported("server_started", "context", "context")


def test_hook_server_stopping():
    reported("server_stopping", "context", "context")


def test_hook_model_loaded():
    reported("model_loaded", "event", ModelLoaded("m", "llama", "cpu", "f32", 2048, 0.5))


def test_hook_model_unloaded():
    reported("model_unloaded", "event", ModelUnloaded("m", "idle"))


def test_hook_request_started():
    reported("request_started", "event", RequestStarted("1", "openai", "m", 7, True))


def test_hook_request_finished():
    reported("request_finished", "event", RequestFinished("1", "openai", "m", 7, 9, "stop", 0.1, 0.4))


def fail(name):
    raise RuntimeError("broken")


def test_the_first_answer_wins_and_the_last_plugin_is_asked_first():
    plugins = load_all(
        *({"resolve_model": hookimpl(answer)} for answer in (lambda: "a", lambda: "b", nothing))
    )
    assert plugins.resolve_model("x") == "b"


def test_a_plugin_can_ask_to_be_first():
    first = hookimpl(lambda: "first", tryfirst=True)
    plugins = load_all({"resolve_model": first}, {"resolve_model": hookimpl(lambda: "other")})
    assert plugins.resolve_model("x") == "first"


def test_a_question_goes_on_past_a_plugin_that_raises(caplog):
    plugins = load_all({"resolve_model": hookimpl(lambda: "answer")}, {"resolve_model": hookimpl(fail)})
    assert plugins.resolve_model("x") == "answer"
    assert "plugin 'plugin1' failed in resolve_model" in caplog.text


def test_a_question_that_only_failing_plugins_answer_stays_open(caplog):
    assert load_all({"resolve_model": hookimpl(fail)}).resolve_model("x") is None


def test_a_report_reaches_the_others_when_one_raises(caplog):
    seen = []

    def boom(event):
        raise RuntimeError("broken")

    plugins = load_all(
        {"model_unloaded": hookimpl(lambda event: seen.append(event))}, {"model_unloaded": hookimpl(boom)}
    )
    event = ModelUnloaded("m", "idle")
    plugins.model_unloaded(event)
    assert seen == [event]
    assert "plugin 'plugin1' failed in model_unloaded" in caplog.text
    assert "RuntimeError: broken" in caplog.text


def test_commands_of_others_survive_a_plugin_that_raises(caplog):
    def boom(app):
        raise RuntimeError("broken")

    def hello(app):
        app.command("hello")(nothing)

    plugins = load_all({"register_commands": hookimpl(hello)}, {"register_commands": hookimpl(boom)})
    names = [c.name for _, app in plugins.command_apps(typer.Typer) for c in app.registered_commands]
    assert names == ["hello"]
