"""What a chat template may take: it is a stranger's program and must end, in bounded memory."""

import sys
import time

import pytest

from shimmy.errors import TemplateError
from shimmy.text import budget
from shimmy.text.chat import ChatTemplate, TemplateLimitError

#: Bytes by which the largest resident size may grow over all cases; single ones asked for 10 GB.
MOST_MEMORY = 600 * 2**20


def run(source):
    return ChatTemplate(source, bos="", eos="", name="tiny").render([{"role": "user", "content": "Hi"}])


def again_and_again(statement):
    return (
        "{% set ns = namespace(text='x', list=['x'], number=7) %}{% for turn in range(100) %}"
        + statement
        + "{% endfor %}{{ ns.text }}{{ ns.list }}"
    )


DOUBLING = [
    "ns.text = ns.text + ns.text",
    "ns.text = ns.text ~ ns.text",
    "ns.text = ns.text * 2",
    "ns.text = [ns.text, ns.text] | join",
    "ns.text = ns.text.join([ns.text, ns.text, ns.text])",
    "ns.text = ns.text.replace('x', ns.text ~ 'x')",
    "ns.text = ns.text | replace('x', ns.text ~ 'x')",
    "ns.text = ns.text | indent(ns.text ~ '\n', true) ",
    "ns.text = '%s%s' % (ns.text, ns.text)",
    "ns.text = '{0}{0}'.format(ns.text)",
    "ns.text = '%s%s' | format(ns.text, ns.text)",
    "ns.list = ns.list + ns.list",
    "ns.list = [ns.list, ns.list]",
    "ns.list = (ns.list, ns.list)",
    "ns.list = {'a': ns.list, 'b': ns.list}",
    "ns.number = ns.number * ns.number",
    "ns.number = ns.number ** ns.number",
]

LARGE = [
    again_and_again("{% set ns.text %}{{ ns.text }}{{ ns.text }}{% endset %}"),
    "{{ 'a' * (10**10) }}",
    "{{ (10**10) * [1] }}",
    "{{ 'x'.ljust(10**11) }}",
    "{{ 'x'.zfill(10**10) }}",
    "{{ '\t'.expandtabs(10**9) }}",
    "{{ 'x' | center(10000000000) }}",
    "{{ 'x' | center(width=10000000000) }}",
    "{{ 'a\nb' | indent(10000000000) }}",
    "{{ [[1]] | tojson(indent=10000000000) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (1000000000, 1) }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ '{:{}}'.format(1, 1000000000) }}",
    "{{ '{:{}}'.format(1, '1000000000') }}",
    "{{ range(99999) | map('center', 1000000) | list }}",
    "{{ range(99999) | map('center', 1000000) | join }}",
    "{{ 2.5 | round(10**9, 'ceil') }}",
    "{% set s = 'a,' * 9000000 %}{{ s.split(',') }}",
    "{% set s = 'a' * 9000000 %}" + "{% set s = s[1:] %}" * 30,
]

ENDLESS = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(90) }}",
    "{% set s = 'a' * 30000000 %}{% for a in range(99999) %}{% if 'b' in s %}{% endif %}{% endfor %}",
    "{% set s = 'a' * 30000000 %}{% for a in range(99999) if 'b' in s %}{% endfor %}",
    "{% set s = 'a' * 30000000 %}{{ range(99999) | map('string') | select('in', s) | list }}",
]


@pytest.mark.parametrize(
    "source", [*(again_and_again("{% set " + step + " %}") for step in DOUBLING), *LARGE]
)
def test_what_a_template_makes_is_bounded(source):
    before = peak_memory()
    with pytest.raises(TemplateLimitError, match="makes|lays") as caught:
        run(source)
    assert caught.value.code == "template_error"
    assert peak_memory() - before < MOST_MEMORY


@pytest.mark.parametrize("source", ENDLESS)
def test_a_template_ends(source, monkeypatch):
    monkeypatch.setattr(budget, "MAX_SECONDS", 0.2)
    start = time.thread_time()
    with pytest.raises(TemplateLimitError, match=r"takes longer than 0\.2 seconds in line 1\. "):
        run(source)
    assert time.thread_time() - start < 3


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "cannot be compiled: maximum recursion"),
        ("{{ " + "9" * 6000 + " }}", "cannot be compiled: .*digits"),
        ("x" * (2**20 + 1), "is longer than 1048576 characters"),
        ("{{ 'x' | wordwrap(1) }}", "No filter named 'wordwrap'"),
        ("{{ 'x'.translate({120: 'y'}) }}", "unsafe"),
        ("{{ (1).to_bytes(10**10) }}", "unsafe"),
        ("{{ lipsum(10**9) }}", "'lipsum' is undefined"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "maximum recursion"),
    ],
)
def test_what_a_template_may_not_use(source, reason):
    with pytest.raises(TemplateError, match=reason):
        run(source)


def test_a_namespace_that_holds_itself_can_be_shown():
    source = "{% set ns = namespace() %}{% set ns.own = [ns, ns] %}{{ ns.own }}"
    assert run(source) == "[<Namespace>, <Namespace>]"


def test_what_templates_do_is_well_within_the_budget():
    """A long chat of a template that copies what it has at every turn."""
    source = (
        "{% set ns = namespace(text='') %}{% for message in messages[1:] %}"
        "{% set ns.text = ns.text ~ message['content'].replace('a', 'b') | trim %}{% endfor %}{{ ns.text }}"
    )
    template = ChatTemplate(source, bos="", eos="", name="tiny")
    messages = [{"role": "user", "content": "a" * 2000}] * 200
    assert template.render(messages) == "b" * 2000 * 199


def peak_memory():
    """The largest resident size of this process so far, in bytes; 0 where the system does not say."""
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
