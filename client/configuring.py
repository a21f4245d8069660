"""What `dualface config` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from rich.table import Table
from rich.text import Text

from client.showing import Out, plain, print_rows
from shared.errors import ErrorCode, PermanentError
from shared.settings.catalogue import as_text, catalogue
from shared.settings.editing import known, set_manual, unset_manual
from shared.settings.origins import Kind, Known, Origin, look
from shared.settings.places import MANUAL, config_dir

STYLES: dict[Kind, str] = {
    "environment": "magenta",
    "manual": "green",
    "detected": "cyan",
    "default": "dim",
}
"""Of origins, on a terminal."""
RUNNING = "A stack that is up keeps what it was started with."


def show_command(section: str | None, *, changed: bool, as_json: bool) -> int:
    """All settings; only those of a section, only those that are no default."""
    everything = _looked().values()
    sections = dict.fromkeys(each.setting.section for each in everything)
    if section is not None and section not in sections:
        raise PermanentError(
            ErrorCode.BAD_OPTION, f"--section: {section!r} is none of {', '.join(sections)}."
        )
    chosen = [
        each
        for each in everything
        if section in (None, each.setting.section)
        and not (changed and each.origin.kind == "default")
    ]
    out = Out(as_json=as_json)
    if as_json:
        out.line([_document(each) for each in chosen])
    elif out.console.is_terminal and chosen:
        out.console.print(_table(chosen), soft_wrap=False)
    else:
        for each in chosen:
            cells = (each.setting.name, _shown(each, each.origin), each.origin.text)
            print("\t".join(map(plain, cells)))
        if not chosen:
            out.note("All of it is at its default.")
    return 0


def get_command(name: str, *, as_json: bool) -> int:
    """One setting."""
    found = _looked()[known(name).name]
    out = Out(as_json=as_json)
    if as_json:
        out.line(_document(found))
    elif not out.console.is_terminal:
        value = found.setting.shown(found.origin.value)
        print(plain("" if value is None else value if isinstance(value, str) else as_text(value)))
    else:
        rows = [("value", found.origin), *(("instead of", each) for each in found.origins[1:])]
        print_rows(
            out,
            found.setting.name,
            [
                *(
                    (what, f"{plain(_shown(found, each))}  {plain(each.text)}")
                    for what, each in rows
                ),
                ("variable", ", once ".join(found.setting.variables)),
                ("what", found.setting.info.description or ""),
            ],
        )
    return 0


def set_command(name: str, value: str, reason: str) -> int:
    """Enter a value, and say what counts now: the environment may be stronger."""
    folder = config_dir()
    setting = set_manual(folder, name, value, reason, datetime.now().astimezone())
    _tell(setting.name)
    return 0


def unset_command(name: str) -> int:
    """Take a value out, and say what counts instead."""
    folder = config_dir()
    entered = unset_manual(folder, name)
    if entered is None:
        Out(as_json=False).note(f"{name} is not in {folder / MANUAL}; nothing was changed.")
    elif entered in catalogue():
        _tell(entered)
    else:
        Out(as_json=False).note(f"{entered} is out of {folder / MANUAL}; there is no such setting.")
    return 0


def names_like(incomplete: str) -> list[tuple[str, str]]:
    """Names of settings that begin so, for a shell."""
    return [
        (name, setting.info.description or "")
        for name, setting in catalogue().items()
        if name.startswith(incomplete)
    ]


def _looked() -> Mapping[str, Known]:
    """As `look`; what was probed is behind the default where a stack leaves it aside."""
    found = look()
    if all(origin.kind != "detected" for each in found.values() for origin in each.origins):
        return found
    from client.doctor.quick import why_no_gpu  # as few modules as can be, without a probe

    wanted = found["gpu.devices"].origin.value
    if wanted != "none" and not (wanted == "auto" and why_no_gpu()):
        return found
    return {name: _without_probe(each) for name, each in found.items()}


def _without_probe(each: Known) -> Known:
    counting = [origin for origin in each.origins if origin.kind != "detected"]
    aside = [
        replace(origin, text=f"{origin.text}, set aside: no GPU is used")
        for origin in each.origins
        if origin.kind == "detected"
    ]
    return replace(each, origins=(*counting, *aside))


def _tell(name: str) -> None:
    found = _looked()[name]
    out = Out(as_json=False)
    out.say(f"{name}: {plain(_shown(found, found.origin))}  {plain(found.origin.text)}")
    manual = next((each for each in found.origins if each.kind == "manual"), None)
    if manual is not None and manual is not found.origin:
        out.note(f"The environment is stronger than {plain(manual.text)}, which waits.")
    out.note(RUNNING)


def _table(chosen: Sequence[Known]) -> Table:
    """Names are for copying, so only values and origins are folded."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("setting", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("origin", overflow="fold")
    section = ""
    for each in chosen:
        if each.setting.section != section:
            section = each.setting.section
            table.add_row(Text(section, style="bold"))
        origin = Text(plain(each.origin.text), style=STYLES[each.origin.kind])
        table.add_row(f"  {each.setting.name}", Text(plain(_shown(each, each.origin))), origin)
    return table


def _document(each: Known) -> dict[str, object]:
    """For programs; of secrets only whether they are there."""
    setting = each.setting
    return {
        "name": setting.name,
        "value": setting.shown(each.origin.value),
        "origin": each.origin.kind,
        "origin_text": each.origin.text,
        "variable": setting.variable,
        "secret": setting.secret,
        "description": setting.info.description,
        "layers": [
            {"origin": layer.kind, "value": setting.shown(layer.value), "text": layer.text}
            for layer in each.origins
        ],
    }


def _shown(each: Known, origin: Origin) -> str:
    return as_text(each.setting.shown(origin.value))
