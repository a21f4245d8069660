"""The options of `dualface config`."""

from __future__ import annotations

from typing import Annotated

import typer

from client.options import JsonOption

config_app = typer.Typer(help="Settings: what counts, and where it comes from; set one, unset one.")


def complete_name(incomplete: str) -> list[tuple[str, str]]:
    """Names of settings, for a shell."""
    from client.configuring import names_like

    return names_like(incomplete)


NameArgument = Annotated[
    str,
    typer.Argument(
        help="SECTION.NAME, or its variable DUALFACE_...",
        metavar="NAME",
        autocompletion=complete_name,
    ),
]


@config_app.callback(invoke_without_command=True)
def show(
    context: typer.Context,
    section: Annotated[str | None, typer.Option(help="Only of this section.")] = None,
    changed: Annotated[bool, typer.Option("--changed", help="Only what is no default.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show every setting with its value and its origin; or get, set, unset one."""
    if context.invoked_subcommand is None:
        from client.configuring import show_command

        raise typer.Exit(show_command(section, changed=changed, as_json=as_json))


@config_app.command("get")
def get(name: NameArgument, as_json: JsonOption = False) -> None:
    """Show one: what it is for, and what every layer says. Into a pipe: its value alone."""
    from client.configuring import get_command

    raise typer.Exit(get_command(name, as_json=as_json))


# A value may begin with a minus; whether one may be negative, its setting says.
@config_app.command("set", context_settings={"ignore_unknown_options": True})
def set_(
    name: NameArgument,
    value: Annotated[str, typer.Argument(help="As in the environment; lists as JSON.")],
    reason: Annotated[str, typer.Option(help="Why, for who reads it later.")] = "",
) -> None:
    """Write a value into manual_config.yaml, with the time and the reason."""
    from client.configuring import set_command

    raise typer.Exit(set_command(name, value, reason))


@config_app.command("unset")
def unset(name: NameArgument) -> None:
    """Take a value out of manual_config.yaml."""
    from client.configuring import unset_command

    raise typer.Exit(unset_command(name))
