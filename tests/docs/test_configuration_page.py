"""docs/configuration.md: the table comes from the code, the example is valid."""

import pytest

from shimmy.cli.docs import markdown
from shimmy.settings import load_settings, settings_table
from shimmy.settings.sources import OTHER_VARIABLES
from tests.docs.pages import page, snippets

PAGE = "configuration.md"


def test_the_table_is_the_generated_one():
    generated = page(PAGE).partition("shimmy.cli.docs -->\n")[2].partition("\n<!-- End")[0]
    assert generated == markdown(), "run `python -m shimmy.cli.docs` and paste its output"


@pytest.mark.parametrize("key", settings_table())
def test_each_setting_is_documented_in_all_spellings(key: str):
    info = settings_table()[key]
    [row] = [line for line in page(PAGE).splitlines() if line.startswith(f"| `{key}` |")]
    assert f"`{info.flag}`" in row
    assert f"`{info.variable}`" in row
    assert info.help.endswith(".")


@pytest.mark.parametrize("variable", sorted(OTHER_VARIABLES))
def test_each_other_variable_is_documented(variable: str):
    assert f"| `{variable}` |" in page(PAGE)


def test_the_example_is_valid(tmp_path):
    [(_, text)] = snippets(PAGE, "toml")
    file = tmp_path / "shimmy.toml"
    file.write_text(text)
    settings = load_settings(config=file)
    assert settings.max_ctx == 8192
    assert settings.plugins.disabled == ("source-python-packages",)
