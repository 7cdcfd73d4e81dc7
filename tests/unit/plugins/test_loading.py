"""Choosing, importing and checking plugins; what fails becomes a row."""

import logging

import pytest

from shimmy import hookimpl
from shimmy.errors import ConfigError, PluginError
from shimmy.plugins import PluginChoice, check_routes, load_plugins
from shimmy.specs import FrontendSpec, QuantTypeSpec

NONE = PluginChoice(enabled=())
WORKING = """
    from shimmy import hookimpl
    from shimmy.specs import MetricSpec

    @hookimpl
    def register_metrics(register):
        register(MetricSpec("answer", "gauge", "The answer.", lambda: 42.0))
"""


def only(*names: str, strict: bool = False) -> PluginChoice:
    return PluginChoice(enabled=names, strict=strict)


def row(name: str, choice: PluginChoice | None = None):
    return next(info for info in load_plugins(choice or only(name)).infos if info.name == name)


def test_an_installed_plugin_is_loaded_with_its_origin(install_plugin):
    install_plugin("works", WORKING)
    plugins = load_plugins(only("works"))
    assert row("works").hooks == ("register_metrics",)
    assert (row("works").status, row("works").distribution, row("works").version) == (
        "loaded",
        "other",
        "1.5",
    )
    assert plugins.metrics.get("answer").read() == 42.0
    assert plugins.metrics.owner("answer") == "works (other)"


def test_rows_are_sorted_by_name(install_plugin):
    install_plugin("zebra", WORKING)
    install_plugin("aardvark", "")
    names = [info.name for info in load_plugins(NONE).infos]
    assert names == sorted(names)


def test_a_disabled_plugin_is_not_imported(install_plugin):
    install_plugin("explodes", "raise AssertionError('imported')")
    info = row("explodes", PluginChoice(disabled=("explodes",)))
    assert (info.status, info.detail) == ("disabled", "named in plugins.disabled")


def test_disabled_wins_over_enabled(install_plugin):
    install_plugin("works", WORKING)
    assert row("works", PluginChoice(enabled=("works",), disabled=("works",))).status == "disabled"


@pytest.mark.parametrize(
    ("source", "detail"),
    [
        ("import there_is_no_such_library", "No module named 'there_is_no_such_library'"),
        ("raise SystemExit('no')", "SystemExit: no"),
        ("shimmy_api = 99", "it was written for plugin API 99; this shimmy offers 1."),
        ("from shimmy import hookimpl\n@hookimpl\ndef register_quantypes(): ...", "register_quant_types"),
        ("from shimmy import hookimpl\n@hookimpl\ndef resolve_model(nom): ...", "nom"),
        ("from shimmy import hookimpl\n@hookimpl\ndef register_ops(register): 1 / 0", "ZeroDivisionError"),
        (
            "from shimmy import hookimpl\n@hookimpl\ndef register_ops(register): register('add')",
            "register_ops registered a str; expected a OpSpec.",
        ),
        (
            "from shimmy import hookimpl\n@hookimpl(wrapper=True)\ndef resolve_model(name): return (yield)",
            "hook wrapper",
        ),
    ],
    ids=["import", "exit", "version", "misspelled", "argument", "raises", "no spec", "wrapper"],
)
def test_a_plugin_that_cannot_be_used_is_a_row(install_plugin, caplog, source: str, detail: str):
    install_plugin("broken", source)
    install_plugin("works", WORKING)
    plugins = load_plugins(only("broken", "works"))
    broken = next(info for info in plugins.infos if info.name == "broken")
    assert broken.status == "failed"
    assert detail in broken.detail
    assert "'broken' is not loaded" in caplog.text
    assert plugins.metrics.names() == ["answer"]
    assert len(plugins.ops) == 0


def test_an_optional_hook_may_be_unknown(install_plugin):
    install_plugin(
        "modern", "from shimmy import hookimpl\n@hookimpl(optionalhook=True)\ndef register_dreams(): ..."
    )
    assert row("modern").status == "loaded"


def test_strict_turns_a_failure_into_an_error(install_plugin):
    install_plugin("broken", "import there_is_no_such_library")
    with pytest.raises(PluginError, match=r"plugin broken \(other\) failed to load: ModuleNotFoundError"):
        load_plugins(only("broken", strict=True))


@pytest.mark.parametrize("key", ["enabled", "disabled"])
def test_unknown_names_are_refused_with_a_suggestion(key: str):
    with pytest.raises(ConfigError, match=rf"plugins\.{key} names 'arch-lama'.*'arch-llama'"):
        load_plugins(PluginChoice(**{key: ("arch-lama",)}))


def test_two_claims_to_a_name_are_an_error_that_names_both(install_plugin):
    install_plugin("works", WORKING)
    install_plugin("works-too", WORKING, distribution="another")
    with pytest.raises(PluginError, match=r"'answer' .*works \(other\) and by works-too \(another\)"):
        load_plugins(only("works", "works-too"))


def test_two_plugins_of_one_name_are_an_error_that_names_both(install_plugin):
    install_plugin("works", WORKING)
    install_plugin("works", WORKING, distribution="another")
    with pytest.raises(PluginError, match="'works' is claimed twice: by a?n?other and a?n?other"):
        load_plugins(NONE)


class Quants:
    @hookimpl
    def register_quant_types(self, register):
        for name in ("Q_A", "Q_B"):
            register(QuantTypeSpec(name, 77, 32, 18, lambda: None))


def test_two_quant_types_may_not_share_an_id():
    with pytest.raises(PluginError, match="ggml type id '77'"):
        load_plugins(NONE, extra=[Quants()])


def test_extra_plugins_are_loaded_whatever_is_enabled(install_plugin):
    class Silent:
        pass

    info = load_plugins(NONE, extra=[Silent()]).infos[-1]
    assert (info.name, info.status, info.distribution) == ("Silent", "loaded", "given in process")


def test_loading_twice_gives_two_independent_results(install_plugin):
    install_plugin("works", WORKING)
    assert load_plugins(only("works")).metrics is not load_plugins(only("works")).metrics


def test_two_frontends_may_not_claim_one_route():
    first = FrontendSpec("one", ("GET /a", "GET /b"), lambda: None)
    second = FrontendSpec("two", ("GET /b",), lambda: None)
    check_routes([first])
    with pytest.raises(PluginError, match="route 'GET /b' of frontend one and 'GET /b' of frontend two"):
        check_routes([first, second])


def test_names_of_variables_do_not_make_another_route():
    first = FrontendSpec("one", ("GET /a/{id}", "GET /a/{id}/b"), lambda: None)
    second = FrontendSpec("two", ("GET /a/{name}",), lambda: None)
    check_routes([first])
    with pytest.raises(
        PluginError, match="'GET /a/{id}' of frontend one and 'GET /a/{name}' of frontend two"
    ):
        check_routes([first, second])


def test_hook_calls_can_be_traced_without_their_arguments(monkeypatch, caplog):
    class Resolver:
        @hookimpl
        def resolve_model(self, name):
            return None

    monkeypatch.setenv("SHIMMY_TRACE_HOOKS", "1")
    caplog.set_level(logging.INFO)
    load_plugins(NONE, extra=[Resolver()]).resolve_model("a secret")
    assert "hook resolve_model(name) -> Resolver" in caplog.text
    assert "hook resolve_model returned" in caplog.text
    assert "secret" not in caplog.text
