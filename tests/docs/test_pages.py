"""Pages hold together: links lead somewhere, code is code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.docs.pages import PAGES, anchors, blocks, links


def named(page: Path) -> str:
    """For the test's name."""
    return page.relative_to(PROJECT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page: Path) -> None:
    broken = []
    for link in links(page):
        path, _, name = link.partition("#")
        if "://" in path or path.startswith("mailto:"):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.is_relative_to(PROJECT) or not target.exists():
            broken.append(f"{link}: no such file")
        elif name and (target.suffix != ".md" or name not in anchors(target)):
            broken.append(f"{link}: no such heading")
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_python_in_the_pages_compiles(page: Path) -> None:
    for each in blocks(page, "python"):
        # Numbered as on the page, so that an error says where.
        compile("\n" * each.line + each.text, named(page), "exec")


def test_the_pages_for_users_are_reached_from_each_other() -> None:
    users = {"api.md", "clients.md", "concepts.md", "deploy.md", "migration.md", "quickstart.md"}
    docs = PROJECT / "docs"
    found, waiting = set(), ["quickstart.md"]
    while waiting:
        name = waiting.pop()
        found.add(name)
        targets = {link.partition("#")[0] for link in links(docs / name)}
        waiting += [each for each in targets & users if each not in found]
    assert found == users
