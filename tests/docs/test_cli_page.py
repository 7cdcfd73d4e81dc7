"""docs/cli.md shows each command as it is, docs/migration.md all that was; examples have real flags."""

import json
import re
import shlex

import pytest

from shimmy.cli import FAILURE, INTERRUPTED, WRONG_USAGE
from shimmy.cli.app import COMMANDS, build
from shimmy.cli.docs import command_markdown
from shimmy.cli.migration import GONE_COMMANDS, GONE_FLAGS, GONE_VARIABLES, OLD_FLAGS
from shimmy.cli.probe_report import _memory_facts
from tests.docs.pages import page, snippets

PAGE = "cli.md"
PAGES = (PAGE, "migration.md", "troubleshooting.md")
LINES = [
    line.partition(" #")[0].partition(" <")[0]
    for name in PAGES
    for _, code in snippets(name, "sh")
    for line in code.splitlines()
    if "shimmy " in line and not line.startswith("pip ")
]


#: Commands of plugins that this page describes; others have pages of their own.
OF_PLUGINS = ("gpu-info", "verify")


@pytest.mark.parametrize("name", ["shimmy", *COMMANDS, *OF_PLUGINS])
def test_the_options_are_those_of_the_command(name):
    start = f"<!-- Generated: python -m shimmy.cli.docs {name} -->\n"
    generated = page(PAGE).partition(start)[2].partition("\n<!-- End")[0]
    assert generated == command_markdown(name), f"run `python -m shimmy.cli.docs {name}` and paste its output"


def test_each_command_has_a_section():
    sections = re.findall(r"^## shimmy ([\w-]+)$", page(PAGE), re.MULTILINE)
    assert sorted(sections) == sorted((*COMMANDS, *OF_PLUGINS))


def test_each_exit_code_is_explained():
    codes = re.findall(r"^\| (\d+) \|", page(PAGE), re.MULTILINE)
    assert codes == ["0", str(FAILURE), str(WRONG_USAGE), str(INTERRUPTED)]


@pytest.mark.parametrize("line", LINES)
def test_examples_have_real_commands_and_flags(line):
    words = shlex.split(line)
    words = words[words.index("shimmy") + 1 :]
    group = build()
    name = next(word for word in words if word in COMMANDS)
    place = words.index(name)
    for command, given in ((group, words[:place]), (group.get_command(None, name), words[place + 1 :])):
        known = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
        assert {word for word in given if word.startswith("--")} <= known


def test_the_probe_s_account_of_memory():
    kib, mib = 2**10, 2**20
    memory = {
        "weight_bytes": 92 * mib,
        "host_weight_bytes": 0,
        "device_bytes": None,
        "kv_type": "f32",
        "kv_bytes_per_token": 45 * kib,
        "kv_budget_bytes": 240493 * 45 * kib,
        "kv_budget_tokens": 240493,
    }
    for name, fact in _memory_facts(memory, 8192):
        assert f"{name:10} {fact}\n" in page(PAGE)


def test_the_json_of_an_answer_is_json():
    [(_, code)] = snippets(PAGE, "json")
    assert set(json.loads(code)) == {"model", "response", "done_reason", "seed", "usage"}


@pytest.mark.parametrize("name", [*OLD_FLAGS.values(), *GONE_FLAGS, *GONE_COMMANDS, *GONE_VARIABLES])
def test_migration_tells_of_all_that_was(name):
    rows = [line.split("|")[1] for line in page("migration.md").splitlines() if line.startswith("|")]
    assert any(re.search(rf"`(serve )?{re.escape(name)}[` ]", row) for row in rows)
