"""The text of the README, and its fenced blocks, for the tests that hold it to its word."""

import re
from typing import List, NamedTuple

from support import ROOT

README = (ROOT / "README.md").read_text("utf-8")


class Block(NamedTuple):
    """A fenced block; `reason` is why it is not run, "" if it is."""

    kind: str
    text: str
    reason: str
    line: int


def blocks(text: str = README) -> List[Block]:
    """All blocks, or those of a part of the text; their lines are counted from its beginning."""
    pattern = r"^(?:<!-- not run: (.+?) -->\n)?```(\w*)\n(.*?)^```$"
    return [Block(found[2], found[3], found[1] or "", text.count("\n", 0, found.start()) + 1)
            for found in re.finditer(pattern, text, re.MULTILINE | re.DOTALL)]


def section(title: str) -> str:
    """The text below a heading, up to the next one of its level."""
    found = re.search(rf"^(##+) {re.escape(title)}\n", README, re.MULTILINE)
    assert found is not None, f"the README has no section {title!r}"
    return README[found.end():].split(f"\n{found[1]} ", 1)[0].split("\n## ", 1)[0]


def block(title: str, kind: str) -> str:
    """The text of the one block of this kind in a section."""
    text, = [each.text for each in blocks(section(title)) if each.kind == kind]
    return text
