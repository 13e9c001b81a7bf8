"""``nsync doctor``: what is installed, found and missing, on one screen."""

from collections.abc import Iterable
from pathlib import Path

from rich.table import Table
from rich.text import Text

from nsync_pipeline.cli.options import find_workspace
from nsync_pipeline.doctor import Finding, State
from nsync_pipeline.doctor.findings import machine_findings, service_findings, workspace_findings
from nsync_pipeline.errors import ParamsError
from nsync_pipeline.params import read_params
from nsync_pipeline.terminal import ShownConsole

COLOURS = {State.OK: "green", State.WARN: "yellow", State.MISSING: "bold red"}


def examine(folder: Path | None, measure: bool = False) -> int:
    """Look, print what was found, and give the exit code: 1 where something needed is missing."""
    console = ShownConsole()
    with console.status("Looking ..."):
        findings = list(_all_findings(folder))
    if measure:
        with console.status("Measuring ..."):
            findings += _measured(folder)
    console.print(_table(findings))
    missing = sum(finding.state is State.MISSING for finding in findings)
    if missing:
        told = f"{missing} missing: the pipeline cannot run before that is put right."
        console.print(Text(told, "red"))
        return 1
    console.print(Text("Nothing is missing.", "green"))
    return 0


def _all_findings(folder: Path | None) -> Iterable[Finding]:
    try:
        workspace = find_workspace(folder)
    except ParamsError as error:
        yield from machine_findings(Path.cwd())
        yield Finding(State.MISSING, "Settings", str(error))
        return
    yield from machine_findings(workspace.root)
    yield from workspace_findings(workspace)
    yield from service_findings(workspace)


def _measured(folder: Path | None) -> list[Finding]:
    """Takes minutes with a large base; what cannot be read was told above."""
    from nsync_pipeline.doctor.branch_timing import branch_findings

    try:
        params = read_params(find_workspace(folder).params_file)
    except ParamsError:
        return []
    return list(branch_findings(params))


def _table(findings: Iterable[Finding]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for finding in findings:
        text = Text(finding.found)
        if finding.advice:
            text.append(f"\n→ {finding.advice}", "dim" if finding.state is State.OK else "cyan")
        table.add_row(Text(finding.state, COLOURS[finding.state]), finding.subject, text)
    return table
