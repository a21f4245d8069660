"""What the doctor found, for programs (JSON) and for people (a table)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Literal

from pydantic import Field
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shared.findings import Finding, State
from shared.gpu import Hardware
from shared.jobs import Model

STYLES = {
    State.OK: "green",
    State.WARNING: "yellow",
    State.PROBLEM: "bold red",
    State.NOT_HERE: "dim",
}
WORST_FIRST = (State.PROBLEM, State.WARNING, State.OK)


class Report(Model):
    """Raised with `schema_version`: fields that go or mean something else. New ones may come."""

    schema_version: Literal[1] = 1
    made_at: datetime
    dualface: str = Field(description="version")
    quick: bool = Field(description="only what needs no other process")
    seconds: float = Field(ge=0)
    state: State = Field(description="the worst of all; what is not here does not count")
    hardware: Hardware | None = Field(description="as NVML has it; null where it was not asked")
    findings: tuple[Finding, ...]


def report_of(
    findings: Sequence[Finding], hardware: Hardware | None, seconds: float, *, quick: bool
) -> Report:
    """Put together what was found."""
    states = {finding.state for finding in findings}
    return Report(
        made_at=datetime.now(UTC),
        dualface=version("dualface"),
        quick=quick,
        seconds=round(seconds, 2),
        state=next((state for state in WORST_FIRST if state in states), State.OK),
        hardware=hardware,
        findings=tuple(findings),
    )


def show(report: Report, console: Console) -> None:
    """The table, and one line that sums it up."""
    table = Table("check", "state", show_edge=False)
    table.add_column("found, and what to do about it", overflow="fold")
    devices = list(dict.fromkeys(each.device for each in report.findings if each.device))
    for finding in report.findings:
        number = f" #{devices.index(finding.device)}" if finding.device in devices[1:] else ""
        found = Text(finding.text)
        if finding.fix:
            found.append(f"\n-> {finding.fix}", style="italic")
        state = Text(finding.state.value, style=STYLES[finding.state])
        table.add_row(Text(finding.check + number), state, found)
    console.print(table)
    counts = [
        f"{sum(each.state is state for each in report.findings)} {state.value}" for state in State
    ]
    console.print(f"\n{', '.join(counts)}; {report.seconds:.1f} s", highlight=False)
