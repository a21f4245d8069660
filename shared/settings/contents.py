"""What the files of settings say: entries with their lines; what is wrong, also with its line.

    performance.max_concurrent_streams:
      value: 3
      since: 2026-11-21T18:40:05+01:00
      reason: the third stream made this machine stutter

What is entered by hand may be short: `performance.max_concurrent_streams: 3`.
`auto_detected.yaml` has its entries below `values`, and facts beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from shared.settings.catalogue import WHOLE, catalogue, is_relative, nearest, not_in_files

if TYPE_CHECKING:  # importing it takes 10 ms, and most machines have no such file
    from yaml import Node, SafeLoader

VALUE, SINCE, REASON = "value", "since", "reason"
VALUES = "values"
LONGEST_BYTES = 1 << 20
"""Nobody's settings are longer."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a file says of one setting. `line`: counted from 1. `since`: local time, or as it was
    written by hand."""

    value: object
    line: int
    since: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a file, and where; `line` 0: with all of it."""

    path: Path
    line: int
    text: str

    def __str__(self) -> str:
        where = f"{self.path}, line {self.line}" if self.line else str(self.path)
        return f"{where}: {self.text}"


@dataclass(slots=True)
class Contents:
    """A file, read. `facts`: what it says beside its entries."""

    path: Path
    entries: dict[str, Entry] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    facts: dict[str, object] = field(default_factory=dict)

    def wrong(self, line: int, text: str) -> None:
        """Note a problem."""
        self.problems.append(Problem(self.path, line, text))


@dataclass(frozen=True, slots=True)
class Layer:
    """What of a file counts: its entries, by the dotted names of settings, are checked."""

    entries: dict[str, Entry] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    facts: dict[str, object] = field(default_factory=dict)

    def values_for(self, reader: type) -> dict[str, object]:
        """By field, of the sections that `reader` has."""
        known = catalogue()
        return {
            known[name].field: entry.value
            for name, entry in self.entries.items()
            if issubclass(reader, known[name].owner)
        }


def checked(contents: Contents) -> Layer:
    """Entries with the names and values of settings; all others are problems."""
    problems = list(contents.problems)
    good = {}
    for name, entry in contents.entries.items():
        wrong = why_not(name, entry.value)
        if wrong:
            problems.append(Problem(contents.path, entry.line, wrong))
        else:
            good[name] = entry
    problems.sort(key=lambda problem: problem.line)
    return Layer(good, tuple(problems), contents.facts)


def why_not(name: str, value: object) -> str:
    """What is wrong with an entry, a sentence; or nothing."""
    setting = catalogue().get(name)
    if setting is None:
        return f"there is no setting {name}{nearest(name)}"
    if why := not_in_files(setting):
        return why
    try:
        checked_value = setting.check(value)
    except ValueError as error:
        return f"{name}: {error}."
    return f"{name}: {WHOLE}." if is_relative(checked_value) else ""


def read(path: Path, *, detected: bool = False) -> Contents:
    """The file's entries; none where there is no file. Raises nothing: problems are in the answer.

    `detected`: as `auto_detected.yaml` is laid out. Names and values are not looked at.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(LONGEST_BYTES + 1)
    except FileNotFoundError:
        return Contents(path)
    except OSError as error:
        contents = Contents(path)
        contents.wrong(0, f"it can't be read ({error.strerror}).")
        return contents
    return parse(path, raw, detected=detected)


def parse(path: Path, raw: bytes, *, detected: bool = False) -> Contents:
    """As `read`, of what `path` has, or will have."""
    contents = Contents(path)
    if len(raw) > LONGEST_BYTES:
        contents.wrong(0, f"it is longer than {LONGEST_BYTES} bytes; none of it counts.")
        return contents
    from yaml import MarkedYAMLError, SafeLoader, YAMLError

    try:
        loader = SafeLoader(raw.decode("utf-8-sig"))
        root = loader.get_single_node()
        if root is not None:
            _read_root(loader, root, contents, detected=detected)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark is not None else 0
        contents.wrong(
            line, f"it is no valid YAML ({error.problem or error.context}); none of it counts."
        )
    except (YAMLError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        contents.wrong(0, f"it is no valid YAML ({reason}); none of it counts.")
    except RecursionError:
        contents.wrong(0, "it is nested too deeply to be read.")
    return contents


def _read_root(loader: SafeLoader, root: Node, contents: Contents, *, detected: bool) -> None:
    for key, line, node in _pairs(loader, root, contents):
        if not detected:
            _read_entry(loader, key, line, node, contents)
        elif key != VALUES:
            contents.facts[key] = _constructed(loader, node, contents)
        else:
            for name, at, below in _pairs(loader, node, contents):
                _read_entry(loader, name, at, below, contents)


def _pairs(loader: SafeLoader, node: Node, contents: Contents) -> Iterator[tuple[str, int, Node]]:
    from yaml import MappingNode

    if not isinstance(node, MappingNode):
        contents.wrong(node.start_mark.line + 1, "here should be lines of NAME: VALUE.")
        return
    for key, value in node.value:
        yield str(_constructed(loader, key, contents)), key.start_mark.line + 1, value


def _read_entry(loader: SafeLoader, name: str, line: int, node: Node, contents: Contents) -> None:
    if name in contents.entries:
        contents.wrong(line, f"{name} is here for the second time; this one counts.")
    before = len(contents.problems)
    value = _constructed(loader, node, contents)
    if len(contents.problems) > before:
        return
    if not isinstance(value, dict):
        contents.entries[name] = Entry(value, line)
    elif VALUE in value:
        since, reason = when(value.get(SINCE)), str(value.get(REASON) or "")
        contents.entries[name] = Entry(value[VALUE], line, since, reason)
    else:
        contents.wrong(line, f"{name} has no `{VALUE}`; names are written with their dots.")


def _constructed(loader: SafeLoader, node: Node, contents: Contents) -> object:
    """What the node means, None (and a problem) where it means nothing."""
    from yaml.constructor import ConstructorError

    try:
        made: object = loader.construct_object(node, deep=True)
    except (ConstructorError, ValueError) as error:
        reason = error.problem if isinstance(error, ConstructorError) else str(error)
        contents.wrong(node.start_mark.line + 1, f"it can't be read ({reason}).")
        return None
    return made


def when(value: object) -> str:
    """A time in a file, local and to the minute, or what stands there instead. YAML reads an
    unquoted time as one."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return str(value)
    if isinstance(value, datetime):
        return f"{value.astimezone():%Y-%m-%d %H:%M}"
    return value.isoformat() if isinstance(value, date) else ""
