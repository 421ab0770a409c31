"""The help pages that the editor shows: one a node, all built alike, and with every input of the node's schema."""

import re
from pathlib import Path

import pytest

from tests.host.test_schema import nodes

PAGES = Path(__file__).resolve().parents[2] / "web" / "docs"
ADVANCED = "### Advanced"
NODES = pytest.mark.parametrize("node", nodes(), ids=lambda node: node.__name__)


@pytest.fixture(autouse=True)
def folders(output):
    """Load Erasure's schema lists a folder."""


def page(node) -> str:
    return (PAGES / f"{node.__name__}.md").read_text(encoding="utf-8")


def part(text: str, heading: str) -> str:
    """What stands under a heading, up to the next one of its level or above; nothing without it."""
    level = len(heading.split()[0])
    found = re.search(rf"^{heading}\n(.*?)(?=^#{{1,{level}}} |\Z)", text, re.MULTILINE | re.DOTALL)
    return found.group(1) if found else ""


def named(text: str) -> list[str]:
    """The names in backticks at the start of bullets; not those of bullets inside bullets."""
    starts = re.findall(r"^- (`\w+`(?:, `\w+`)*)(?: \(optional\))?: ", text, re.MULTILINE)
    return [name for start in starts for name in re.findall(r"\w+", start)]


def ids(inputs, advanced: bool) -> list[str]:
    return sorted(i.id for i in inputs if bool(i.advanced) is advanced)


def test_every_node_has_a_page_and_every_page_a_node():
    assert {path.stem for path in PAGES.glob("*.md")} == {node.__name__ for node in nodes()}


@NODES
def test_a_page_has_its_parts_in_order(node):
    schema = node.define_schema()
    title, inputs, last = f"# {schema.display_name}", "## Inputs", "## Common mistakes"
    more = [ADVANCED] if ids(schema.inputs, advanced=True) else []
    parts = [title, "![", "## When to use it", inputs, *more, "## Outputs", last]
    lines = [line[:2] if line.startswith("![") else line for line in page(node).splitlines()]
    assert [line for line in lines if line in parts] == parts
    headings = [line for line in lines if line.startswith("#")]
    assert headings[:2] == [title, "## When to use it"] and headings[-1] == last
    assert [line for line in part(page(node), inputs).splitlines() if line.startswith("#")] == more


@NODES
def test_a_page_says_what_the_node_does_above_its_picture(node):
    _, said, picture, *_ = page(node).split("\n\n")
    assert re.match(r"\w", said) and picture.startswith("![")


@NODES
def test_a_page_has_one_picture_which_is_described_and_no_link(node):
    """The editor looks for a linked page beside its own start page, where there is none."""
    links = [line for line in page(node).splitlines() if "](" in line and "](http" not in line]
    assert len(links) == 1
    assert re.fullmatch(rf"!\[\w[^\]]+\.\]\({node.__name__}\.jpg\)", links[0])
    assert (PAGES / f"{node.__name__}.jpg").is_file()


@NODES
def test_a_page_names_every_input_and_no_other(node):
    inputs = part(page(node), "## Inputs")
    advanced = part(inputs, ADVANCED)
    plain = inputs.removesuffix(advanced)
    schema = node.define_schema()
    assert sorted(named(plain)) == ids(schema.inputs, advanced=False)
    assert sorted(named(advanced)) == ids(schema.inputs, advanced=True)


@NODES
def test_a_page_names_every_output(node):
    outputs = [output.display_name for output in node.define_schema().outputs or []]
    assert named(part(page(node), "## Outputs")) == outputs


@NODES
def test_a_page_tells_of_two_to_five_mistakes(node):
    mistakes = [line for line in part(page(node), "## Common mistakes").splitlines() if line.startswith("- ")]
    assert 2 <= len(mistakes) <= 5
    assert all(line.startswith("- *") for line in mistakes)
