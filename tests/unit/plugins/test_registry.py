import pytest

from shimmy.errors import PluginError, RegistryError
from shimmy.registry import Registry


@pytest.fixture
def colours() -> Registry[list[int]]:
    registry: Registry[list[int]] = Registry("colour")
    shared = [1]
    registry.add("red", shared, "paint")
    registry.add("crimson", shared, "paint")
    registry.add("blue", [2], "sky")
    return registry


def test_names_owners_and_specs(colours):
    assert colours.names() == ["blue", "crimson", "red"]
    assert colours.get("red") is colours.get("crimson")
    assert colours.owner("blue") == "sky"
    assert "blue" in colours
    assert "green" not in colours
    assert len(colours) == 3


def test_iteration_gives_each_spec_once_in_order(colours):
    assert list(colours) == [[1], [2]]


def test_unknown_names_get_a_hint(colours):
    with pytest.raises(RegistryError, match="no colour is called 'bleu'. Did you mean 'blue'?"):
        colours.get("bleu")
    with pytest.raises(RegistryError):
        colours.owner("bleu")


def test_two_claims_name_both_owners(colours):
    with pytest.raises(PluginError, match="colour 'red' is claimed twice: by paint and by rust"):
        colours.add("red", [3], "rust")
