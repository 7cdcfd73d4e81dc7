"""The catalog over sources made on the spot; files are tiny but real GGUF."""

import re
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shimmy import hookimpl
from shimmy.discovery import catalog as catalog_module
from shimmy.discovery.catalog import Catalog, FoundModel, Skipped
from shimmy.errors import ConfigError, ModelError, ModelNotFoundError
from shimmy.gguf.reader import open_gguf
from shimmy.gguf.writer import RawTensor, write_gguf
from shimmy.plugins import PluginChoice, load_plugins
from shimmy.settings import Settings
from shimmy.specs import ArchitectureSpec, DiscoverySourceSpec

METADATA = {"general.architecture": "toy", "toy.context_length": 64, "tokenizer.ggml.model": "none"}


class Toys:
    """A plugin: one architecture, and a source that reports what the test says."""

    def __init__(self, *reports: FoundModel | Skipped | Exception) -> None:
        self.reports = reports
        self.scans = 0

    @hookimpl
    def register_architectures(self, register):
        register(ArchitectureSpec(("toy",), lambda: None))

    @hookimpl
    def register_discovery_sources(self, register):
        register(DiscoverySourceSpec("toys", lambda: self))

    @hookimpl
    def resolve_model(self, name):
        return self.found(name.removeprefix("lookup:")) if name.startswith("lookup:") else None

    @staticmethod
    def found(path: str | Path) -> FoundModel:
        return FoundModel(Path(path).stem, Path(path), "toys")

    def scan(self, settings):
        self.scans += 1
        for report in self.reports:
            if isinstance(report, Exception):
                raise report
            yield report


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., FoundModel]:
    def write(name: str, **changes: object) -> FoundModel:
        metadata = {key: value for key, value in (METADATA | changes).items() if value is not None}
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_gguf(path, metadata, {"token_embd.weight": np.ones((4, 32), np.float32)})
        return Toys.found(path)

    return write


def catalog_of(*reports: FoundModel | Skipped | Exception, **settings: object) -> Catalog:
    plugins = load_plugins(PluginChoice(enabled=("quant-f32",)), extra=[Toys(*reports)])
    return Catalog(Settings(**settings), plugins)


def test_a_card_says_what_the_file_says(model):
    found = model("tiny.F32.gguf")
    [card] = catalog_of(found).models()
    assert (card.name, card.path, card.source) == ("tiny", found.path, "toys")
    assert (card.architecture, card.parameters, card.quantization) == ("toy", 128, "F32")
    assert (card.context_length, card.has_chat_template) == (64, False)
    assert card.size_bytes == found.path.stat().st_size


def test_models_are_got_by_name_and_alias(model):
    catalog = catalog_of(model("tiny.F32.gguf"), model("big.gguf"))
    assert catalog.names() == ["big", "tiny"]
    assert catalog.get("tiny") == catalog.get("tiny.F32") == catalog.models()[1]


def test_an_unknown_name_gets_near_ones(model):
    with pytest.raises(ModelNotFoundError, match="there is no model 'tinny'. Did you mean 'tiny'?"):
        catalog_of(model("tiny.gguf")).get("tinny")


def test_a_name_that_several_go_by_gets_their_names(model):
    catalog = catalog_of(model("a/tiny.Q4_1.gguf"), model("b/tiny.Q4_1.gguf"), model("c/tiny.Q8_0.gguf"))
    with pytest.raises(
        ModelNotFoundError, match="'tiny' may be any of 3 models. Say which: a/tiny.Q4_1, b/"
    ) as short:
        catalog.get("tiny")
    assert short.value.param == "model"
    with pytest.raises(ModelNotFoundError, match="of 2 models. Say which: a/tiny.Q4_1, b/tiny.Q4_1.$"):
        catalog.get("tiny.Q4_1")
    assert catalog.get("tiny.Q8_0").path.parent.name == "c"


def test_an_unknown_name_is_looked_for_again_but_not_all_the_time(model, monkeypatch):
    source = Toys(model("tiny.gguf"))
    plugins = load_plugins(PluginChoice(enabled=("quant-f32",)), extra=[source])
    catalog = Catalog(Settings(), plugins)
    catalog.names()
    source.reports = (*source.reports, model("late.gguf"), model("later.gguf"))
    for _ in range(3):
        with pytest.raises(ModelNotFoundError):
            catalog.get("late")
    assert source.scans == 1
    monkeypatch.setattr(catalog_module, "AGAIN_SECONDS", 0.0)
    assert catalog.get("late").name == "late"
    assert catalog.get("later").name == "later"
    assert source.scans == 2
    source.reports = (ConfigError("what a setting names is gone."),)
    with pytest.raises(ModelNotFoundError, match="there is no model 'x'"):
        catalog.get("x")
    assert catalog.get("tiny").name == "tiny"


def test_a_plugin_may_know_a_name_no_source_listed(model):
    found = model("hidden.gguf")
    card = catalog_of().get(f"lookup:{found.path}")
    assert card.path == found.path
    assert card.name == f"lookup:{found.path}"


def test_one_file_reported_twice_counts_once(model, tmp_path):
    found = model("tiny.gguf")
    (tmp_path / "link.gguf").symlink_to(found.path)
    catalog = catalog_of(found, Toys.found(tmp_path / "link.gguf"))
    assert catalog.names() == ["tiny"]
    assert catalog.get("link").name == "tiny"
    assert catalog.aliases("tiny") == ["link"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"general.architecture": "clip"}, "no plugin provides its architecture 'clip'"),
        ({"tokenizer.ggml.model": None}, "no vocabulary"),
        ({"general.type": "adapter"}, "general.type is 'adapter', not 'model'"),
        ({"general.architecture": None}, "no 'general.architecture'"),
    ],
)
def test_what_is_no_usable_model_is_skipped_with_a_reason(model, changes: dict, reason: str):
    found = model("odd.gguf", **changes)
    catalog = catalog_of(found)
    assert catalog.models() == []
    [row] = catalog.skipped
    assert (row.path, row.source) == (found.path, "toys")
    assert reason in row.reason
    with pytest.raises(ModelError, match="model 'odd' cannot be used"):
        catalog.get("odd")


@pytest.mark.parametrize(("ggml_id", "kind"), [(1, r"F16 \(id 1 in ggml\)"), (99, "with ggml's id 99")])
def test_a_quant_type_that_no_plugin_provides_is_a_reason(model, ggml_id: int, kind: str):
    found = model("half.gguf")
    write_gguf(found.path, METADATA, {"token_embd.weight": RawTensor(bytes(256), ggml_id, (4, 32))})
    catalog = catalog_of(found, model("tiny.gguf"))
    assert [card.name for card in catalog.models()] == ["tiny"]
    [row] = catalog.skipped
    assert (row.path, row.source) == (found.path, "toys")
    assert catalog.default().name == "tiny"
    with pytest.raises(ModelError, match="model 'half' cannot be used: ") as error:
        catalog.get("half")
    for told in (row.reason, str(error.value)):
        # The tensor, its type, and what would add it.
        assert re.search(f"tensor 'token_embd.weight' is of the quant type {kind}, which no plugin", told)
        assert "plugin that registers the type (`shimmy init quant NAME`" in told


def test_broken_and_vanished_files_are_skipped(tmp_path):
    (tmp_path / "broken.gguf").write_bytes(b"GGUF but not really")
    (tmp_path / "empty.gguf").touch()
    names = ("broken.gguf", "empty.gguf", "gone.gguf")
    catalog = catalog_of(*(Toys.found(tmp_path / name) for name in names))
    assert catalog.models() == []
    assert sorted(row.path.name for row in catalog.skipped) == sorted(names)
    assert all(row.reason for row in catalog.skipped)


def test_a_source_that_fails_is_reported_and_passed_over(model, caplog):
    catalog = catalog_of(model("tiny.gguf"), RuntimeError("disk on fire"))
    assert catalog.names() == ["tiny"]
    [row] = catalog.skipped
    assert row == Skipped(None, "toys", "the source failed: RuntimeError: disk on fire")
    assert "discovery source 'toys' failed" in caplog.text


def test_no_file_is_opened_before_its_card_is_asked_for(model, monkeypatch):
    opened = count_openings(monkeypatch)
    catalog = catalog_of(*(model(f"tiny{number}.gguf") for number in range(5)))
    assert len(catalog.names()) == 5
    assert opened == []
    assert catalog.default().name == "tiny0"
    assert len(opened) == 1


def test_a_source_that_hangs_is_left_behind(model, caplog):
    found = model("tiny.gguf")
    stuck = threading.Event()

    class Sleepy(Toys):
        def scan(self, settings):
            yield found
            stuck.wait(60)

    plugins = load_plugins(PluginChoice(enabled=("quant-f32",)), extra=[Sleepy()])
    catalog = Catalog(Settings(), plugins, source_seconds=0.2)
    assert catalog.names() == ["tiny"]
    stuck.set()
    assert catalog.skipped == [Skipped(None, "toys", "not finished after 0.2 s; the rest was left out.")]
    assert "'toys' did not finish" in caplog.text


def test_aliases_of_the_users_own(model):
    tiny, big = model("tiny.gguf"), model("big.gguf")
    catalog = catalog_of(tiny, big, served_model_name=["tiny=gpt-4", "mine"])
    assert catalog.get("gpt-4").path == tiny.path
    assert catalog.get("gpt-4").name == "tiny"
    assert catalog.get("mine") == catalog.default() == catalog.get("big")
    assert (catalog.aliases("tiny"), catalog.aliases("big")) == (["gpt-4"], ["mine"])
    assert catalog.own_names() == {"gpt-4": catalog.get("tiny"), "mine": catalog.get("big")}
    catalog.check_served_names()


def test_the_model_a_name_means_is_known_without_its_file(model):
    found = model("tiny.gguf")
    catalog = catalog_of(found, served_model_name=["tiny=gpt-4", "mine"])
    catalog.names()
    found.path.unlink()
    assert [catalog.target(name) for name in ("tiny", "gpt-4", str(found.path))] == ["tiny"] * 3
    assert [catalog.target(name) for name in ("mine", None)] == [None, None]
    assert catalog.target("stranger") == "stranger"


def test_aliases_of_models_that_are_not_there(model):
    catalog = catalog_of(model("tiny.gguf"), served_model_name=["lost=x"])
    with pytest.raises(
        ModelNotFoundError, match="makes 'x' a name of another model, but there is no model 'lost'"
    ):
        catalog.get("x")
    assert catalog.aliases("tiny") == []
    assert catalog.own_names() == {}


def test_aliases_of_unknown_models_are_refused_before_they_are_used(model):
    found = model("tiny.gguf")
    with pytest.raises(
        ConfigError, match="gives a name to a model, but there is no model 'tinny'. Did you mean 'tiny'"
    ):
        catalog_of(found, served_model_name=["tinny=x"]).check_served_names()
    # A plugin may know a name that no listing has, and a model that is there may be of no use.
    catalog_of(served_model_name=[f"lookup:{found.path}=x"]).check_served_names()
    odd = model("odd.gguf", **{"general.architecture": "clip"})
    catalog = catalog_of(odd, served_model_name=["odd=x"])
    catalog.check_served_names()
    assert catalog.own_names() == {}


@pytest.mark.parametrize(
    ("served", "message"),
    [
        ([""], "has '' .*expected NAME or MODEL=NAME"),
        (["tiny="], "has 'tiny=' .*expected NAME or MODEL=NAME"),
        (["=x"], "has '=x' .*expected NAME or MODEL=NAME"),
        (["tiny=x", "big=x"], "gives 'x' to two models"),
        (["tiny=big"], "gives a model the name 'big', but .*big.gguf has it already"),
    ],
)
def test_aliases_that_cannot_be(model, served, message):
    with pytest.raises(ConfigError, match=message):
        catalog_of(model("tiny.gguf"), model("big.gguf"), served_model_name=served).names()


def test_aliases_of_a_source(model):
    tiny = replace(model("tiny.gguf"), name="tiny:latest", aliases=("tiny",))
    catalog = catalog_of(tiny)
    assert catalog.names() == ["tiny:latest"]
    assert catalog.get("tiny").name == "tiny:latest"
    assert catalog.aliases("tiny:latest") == ["tiny"]


def test_a_wrong_setting_is_no_passing_trouble():
    with pytest.raises(ConfigError):
        catalog_of(ConfigError("no such file")).models()


def test_the_default_is_base_gguf_else_the_first(model):
    small, tiny = model("small.gguf"), model("tiny.gguf")
    assert catalog_of(tiny, small).default().name == "small"
    assert catalog_of(tiny, small, base_gguf=tiny.path).default().name == "tiny"


def test_a_base_gguf_that_cannot_be_used_is_an_error(model, tmp_path):
    odd = model("odd.gguf", **{"general.architecture": "clip"})
    with pytest.raises(ModelError, match="model 'odd' cannot be used"):
        catalog_of(odd, base_gguf=odd.path).default()
    with pytest.raises(ModelNotFoundError, match="no discovery source reports base_gguf"):
        catalog_of(odd, base_gguf=tmp_path / "unseen.gguf").default()


def test_without_usable_models_the_default_points_to_the_reasons(model):
    with pytest.raises(ModelNotFoundError, match="list --all"):
        catalog_of(model("odd.gguf", **{"general.type": "adapter"})).default()


def count_openings(monkeypatch) -> list[Path]:
    """The files that are opened from now on."""
    opened = []

    def count(path, **options):
        opened.append(path)
        return open_gguf(path, **options)

    monkeypatch.setattr("shimmy.discovery.cards.open_gguf", count)
    return opened


def test_sources_are_asked_once_and_files_reread_when_changed(model, monkeypatch):
    found = model("tiny.gguf")
    toys = Toys(found)
    catalog = Catalog(Settings(), load_plugins(PluginChoice(enabled=("quant-f32",)), extra=[toys]))
    opened = count_openings(monkeypatch)
    assert catalog.get("tiny") == catalog.get("tiny")
    assert opened == [found.path]
    model("tiny.gguf", **{"toy.context_length": 128, "general.name": "changed"})
    assert catalog.get("tiny").context_length == 128
    assert toys.scans == 1
    catalog.refresh()
    assert toys.scans == 2


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names of files are text there")
def test_files_whose_names_are_no_text_are_skipped(model):
    good, bad = model("good.gguf"), model("b\udcffd.gguf")
    catalog = catalog_of(bad, good)
    assert catalog.names() == ["good"]
    assert catalog.default().name == "good"
    [row] = catalog.skipped
    assert (row.path, "UTF-8" in row.reason) == (bad.path, True)


def test_two_thousand_files_are_listed_before_each_is_read_whole(model, monkeypatch, tmp_path):
    content = model("model-0000.gguf", **{"tokenizer.chat_template": "{{ messages }}"}).path.read_bytes()
    paths = [tmp_path / f"model-{number:04}.gguf" for number in range(2000)]
    for path in paths:
        path.write_bytes(content)
    # Its head is in order, so only a look at its tensors can tell.
    paths[150].write_bytes(content[:-512])
    catalog = catalog_of(*map(Toys.found, paths))
    opened = count_openings(monkeypatch)

    cards = catalog.models()
    assert [card.name for card in cards] == [path.stem for path in paths]
    assert opened == paths[:100]
    assert {(card.architecture, card.context_length, card.has_chat_template) for card in cards} == {
        ("toy", 64, True)
    }
    details = [(card.parameters, card.quantization) for card in cards]
    assert details == [(128, "F32")] * 100 + [(None, None)] * 1900
    assert catalog.skipped == []

    cards = catalog.models()
    assert opened == paths[:200]
    assert [card.path for card in cards if card.parameters] == paths[:150] + paths[151:200]
    assert len(cards) == 1999
    assert [row.path for row in catalog.skipped] == [paths[150]]
    assert catalog.get("model-1999").parameters == 128
