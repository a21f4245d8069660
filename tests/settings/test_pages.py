"""The pages name every setting, in its section, with its default."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from shared.settings.catalogue import catalogue
from tests.conftest import PROJECT
from tests.docs.pages import PAGES

OPERATIONS = PROJECT / "docs" / "operations.md"
NAME = re.compile(r"`(DUALFACE_[A-Z0-9_]+|_[A-Z][A-Z0-9_]*)`")
VARIABLES = {each.variable: each for each in catalogue().values()}
OLD = {name for each in catalogue().values() for name in each.variables[1:]}


class Row(NamedTuple):
    section: str
    names: list[str]
    default: str


def names_in(text: str) -> list[str]:
    """Variables; those that are written without what they share with the one before, whole."""
    found: list[str] = []
    for name in NAME.findall(text):
        if name.startswith("_") and found:
            parts = found[-1].split("_")
            whole = ("_".join(parts[:end]) + name for end in range(len(parts) - 1, 0, -1))
            found.append(next((each for each in whole if each in VARIABLES), name))
        elif not name.startswith("_"):
            found.append(name)
    return found


def rows() -> Iterator[Row]:
    """Of the tables of settings."""
    section = ""
    for line in OPERATIONS.read_text().splitlines():
        if line.startswith("## "):
            section = "api" if line.startswith("## API") else ""
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        heading = re.fullmatch(r"\*\*(\w+)\*\*", cells[0])
        if heading is not None:
            section = heading[1]
        elif line.startswith("| `DUALFACE_"):
            yield Row(section, names_in(line), cells[1])


def test_every_setting_has_a_row_in_its_section() -> None:
    found = {(row.section, name) for row in rows() for name in row.names}
    limits = re.findall(r"`([A-Z_]+)`", (PROJECT / "docs" / "security.md").read_text())
    found |= {("sources", f"DUALFACE_SOURCE_MAX_{name}") for name in limits}
    known = {(each.section, each.variable) for each in VARIABLES.values()}
    assert known - found == set()


def test_the_defaults_of_the_rows_are_true() -> None:
    wrong = []
    for row in rows():
        told = [part.strip() for part in row.default.split(",")]
        for name, text in zip(row.names, told, strict=False):
            if re.fullmatch(r"\d+(\.\d+)?", text) and name != "DUALFACE_ARENA_MIB":
                default = VARIABLES[name].default
                assert isinstance(default, int | float), name
                wrong += [name] if float(text) != default else []
    assert wrong == []


def test_pages_name_no_variable_that_is_none() -> None:
    wrong = []
    for page in [*PAGES, PROJECT / ".env.example"]:
        for name in re.findall(r"DUALFACE_[A-Z0-9_]*[A-Z0-9]\b(?!_)", page.read_text()):
            if name not in VARIABLES.keys() | OLD:
                wrong.append(f"{page.name}: {name}")
    assert wrong == []


def test_every_setting_says_what_it_is_for() -> None:
    silent = [name for name, each in catalogue().items() if not each.info.description]
    assert silent == []


def test_names_are_one_setting_s_only() -> None:
    names = [name for each in catalogue().values() for name in each.variables]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z]+\.[a-z0-9_]+", name) for name in catalogue())
