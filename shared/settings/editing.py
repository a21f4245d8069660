"""`manual_config.yaml`, changed line by line: people's comments, order and other entries stay."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic_settings import EnvSettingsSource

from shared.errors import ErrorCode, PermanentError
from shared.settings.catalogue import WHOLE, Setting, find, is_relative, nearest, not_in_files
from shared.settings.contents import REASON, SINCE, VALUE, parse
from shared.settings.loading import Settings, SourceLimits
from shared.settings.places import MANUAL
from shared.settings.writing import only_writer, write_whole

if TYPE_CHECKING:
    from yaml import Node

HEAD = """\
# What was set by hand on this machine. `dualface config set NAME VALUE --reason WHY` writes here,
# and so may you: comments and order stay, and an entry may be as short as NAME: VALUE. Variables of
# the environment (DUALFACE_...) are stronger; `dualface config` says what counts, and why.
# This is no place for secrets.
"""


def set_manual(folder: Path, name: str, text: str, reason: str, now: datetime) -> Setting:
    """Enter a value, written as in the environment; an earlier entry is replaced in its place.

    Raises PermanentError: BAD_OPTION for a name or value that is wrong, or a file that can't be
    read; OUTPUT_UNWRITABLE. The file is as it was, then.
    """
    setting = known(name)
    entry = _entry_text(setting.name, _checked(setting, text), reason, now)
    with only_writer(folder):
        path = folder / MANUAL
        before = _text(path)
        spans = _spans(path, before, setting.name)
        if spans:
            after = _cut(before, spans[1:])
            start, end = spans[0]
            after = after[:start] + entry + after[end:]
        else:
            after = (before.rstrip() or HEAD.rstrip()) + "\n" + entry
        _write(path, after, setting.name, here=True)
    return setting


def unset_manual(folder: Path, name: str) -> str | None:
    """Take a setting's entries out, also wrong ones; the answer is its name, None if it has none.

    Raises PermanentError as `set_manual`; for a name that nobody knows only where it isn't there.
    """
    setting = find(name)
    entered = setting.name if setting is not None else name
    with only_writer(folder):
        path = folder / MANUAL
        before = _text(path)
        spans = _spans(path, before, entered)
        if not spans:
            known(name)
            return None
        _write(path, _cut(before, spans), entered, here=False)
    return entered


def known(name: str) -> Setting:
    """By dotted name or variable. Raises PermanentError BAD_OPTION with the nearest names."""
    setting = find(name)
    if setting is None:
        raise PermanentError(ErrorCode.BAD_OPTION, f"There is no setting {name}{nearest(name)}")
    return setting


def _checked(setting: Setting, text: str) -> object:
    """What the text means, read and checked as in the environment; as YAML has it."""
    if why := not_in_files(setting):
        raise PermanentError(ErrorCode.BAD_OPTION, why)
    owner = SourceLimits if issubclass(SourceLimits, setting.owner) else Settings
    source = EnvSettingsSource(owner)
    try:
        value = source.prepare_field_value(setting.field, setting.info, text, False)
        checked = setting.check(value)
        if is_relative(checked):
            raise ValueError(WHOLE)
        return setting.plain(checked)
    except json.JSONDecodeError as error:
        reason = 'it has to be JSON, for example ["a", "b"]'
        raise _refused(f"{setting.name} can't be {text!r}: {reason}.") from error
    except ValueError as error:
        raise _refused(f"{setting.name} can't be {text!r}: {error}.") from error


def _entry_text(name: str, value: object, reason: str, now: datetime) -> str:
    import yaml

    fields = {
        VALUE: value,
        SINCE: now.isoformat(timespec="seconds"),
        REASON: " ".join(reason.split()),
    }
    return "".join(
        [f"{name}:\n"]
        + [
            f"  {field}: " + yaml.safe_dump([given], allow_unicode=True, width=10_000,
                                            default_flow_style=True)[1:-2] + "\n"
            for field, given in fields.items()
            if given != "" or field == VALUE
        ]
    )  # fmt: skip


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise _refused(f"{path} can't be read ({error}).") from error


def _spans(path: Path, text: str, name: str) -> Sequence[tuple[int, int]]:
    """Where the entries of that name stand, from their first character to the end of their last
    line. Raises PermanentError for a text that can't be edited."""
    from yaml import MappingNode, SafeLoader, YAMLError

    try:
        root = SafeLoader(text).get_single_node()
    except (YAMLError, RecursionError) as error:
        (problem, *_) = parse(path, text.encode()).problems
        raise _refused(f"{problem} Mend it first; nothing was changed.") from error
    if root is None:
        return ()
    if not isinstance(root, MappingNode) or root.flow_style:
        raise _refused(f"{path} has to be lines of NAME: VALUE to be edited; nothing was changed.")
    return [
        (key.start_mark.index, _end(text, value)) for key, value in root.value if key.value == name
    ]


def _end(text: str, node: Node) -> int:
    """Of the last line that the node is on: a block's own mark is behind the comments after it."""
    from yaml import CollectionNode

    last = node
    while isinstance(last, CollectionNode) and last.value and not last.flow_style:
        item = last.value[-1]
        last = item[1] if isinstance(item, tuple) else item
    end: int = last.end_mark.index
    if end and text[end - 1] == "\n":
        return end
    newline = text.find("\n", end)
    return len(text) if newline < 0 else newline + 1


def _cut(text: str, spans: Sequence[tuple[int, int]]) -> str:
    for start, end in reversed(spans):
        text = text[:start] + text[end:]
    return text


def _write(path: Path, text: str, name: str, *, here: bool) -> None:
    """Only what reads as it should."""
    contents = parse(path, text.encode())
    before = parse(path, _text(path).encode())
    others = {key: entry.value for key, entry in before.entries.items() if key != name}
    found = {key: entry.value for key, entry in contents.entries.items() if key != name}
    if found != others or (name in contents.entries) != here:
        raise _refused(f"{path} is written in a way that can't be edited; change it by hand.")
    write_whole(path, text)


def _refused(text: str) -> PermanentError:
    return PermanentError(ErrorCode.BAD_OPTION, text)
