"""The pages of the documentation: their links, headings and blocks of code."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from services.coordinator.api.reference import anchor
from tests.conftest import PROJECT

DOCS = PROJECT / "docs"
PAGES = (PROJECT / "README.md", *sorted(DOCS.rglob("*.md")))

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>```+)(?P<language>\w*)\s*$")
_LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\((?P<target>[^()\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (?P<text>.+)$")


class Block(NamedTuple):
    """Code of a page. `heading` is what it stands below, without `#` and backticks."""

    page: Path
    line: int
    heading: str
    language: str
    text: str


def blocks(page: Path, language: str | None = None) -> Iterator[Block]:
    """Code between fences; indented ones, as in lists, are brought to the margin."""
    heading, opened, lines = "", None, []
    for number, line in enumerate(page.read_text().splitlines(), start=1):
        fence = _FENCE.match(line)
        if opened is not None:
            if fence and not fence["language"] and fence["indent"] == opened[1]["indent"]:
                found = opened[1]["language"]
                if language in (None, found):
                    yield Block(page, opened[0], heading, found, "\n".join(lines) + "\n")
                opened = None
            else:
                lines.append(line.removeprefix(opened[1]["indent"]))
        elif fence:
            opened, lines = (number, fence), []
        elif told := _HEADING.match(line):
            heading = told["text"].replace("`", "")
    if opened is not None:
        raise ValueError(f"{page.name}:{opened[0]}: a block of code without an end")


def block(page: str, language: str, holding: str) -> Block:
    """The one block of a page in `docs/` that has this in it."""
    found = [each for each in blocks(DOCS / page, language) if holding in each.text]
    if len(found) != 1:
        raise LookupError(f"{page} has {len(found)} blocks of {language} with {holding!r}")
    return found[0]


def prose(page: Path) -> str:
    """A page without its code."""
    kept, inside = [], False
    for line in page.read_text().splitlines():
        if _FENCE.match(line):
            inside = not inside
        elif not inside:
            kept.append(line)
    return "\n".join(kept)


def links(page: Path) -> list[str]:
    """Targets of a page's links and pictures; what is in backticks is none."""
    return [found["target"] for found in _LINK.finditer(re.sub(r"`[^`\n]*`", "`", prose(page)))]


def anchors(page: Path) -> set[str]:
    """What may stand behind `#` in links to a page."""
    seen: Counter[str] = Counter()
    found = set()
    for line in prose(page).splitlines():
        if told := _HEADING.match(line):
            name = anchor(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", told["text"]))
            found.add(f"{name}-{seen[name]}" if seen[name] else name)
            seen[name] += 1
    return found
