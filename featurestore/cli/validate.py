"""`fs validate`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from featurestore.cli.complete import all_names
from featurestore.cli.failures import ERROR, OK
from featurestore.cli.output import moment_text, print_json, print_table
from featurestore.cli.project import Settings, command

if TYPE_CHECKING:
    from featurestore.store import FeatureStore
    from featurestore.verdicts import Validation, Verdict

NOT_EVALUATED = 3
"""Nothing failed, and something could not be judged."""

_COLOURS = {"passed": "green", "failed": "red", "not_evaluated": "yellow"}


@command("validate")
@click.argument("name", required=False, shell_complete=all_names)
@click.option(
    "--engine",
    type=click.Choice(["duckdb", "gx", "statistics"]),
    default="duckdb",
    show_default=True,
    help="DuckDB in one pass, Great Expectations on a frame, or what is kept of statistics, without a scan.",
)
@click.option(
    "--data", type=click.Path(), metavar="FILE", help="Judge these rows: Parquet, CSV, JSON, a folder."
)
@click.option("--since", metavar="TIME", help="Only rows from here on, by event time.")
@click.option("--until", metavar="TIME", help="Only rows before this.")
@click.option("--suggest", is_flag=True, help="Print expectations that rows like these would meet, as code.")
@click.option("--applied", is_flag=True, help="What is applied, instead of the definitions.")
@click.option("--history", is_flag=True, help="What was judged before, the newest first.")
@click.option("--no-keep", is_flag=True, help="Keep nothing of the outcome.")
@click.option("--html", type=click.Path(dir_okay=False), metavar="FILE", help="Write the outcome as a page.")
@click.option(
    "--document", type=click.Path(dir_okay=False), metavar="FILE", help="Of gx: write its result as JSON."
)
def validate_command(
    settings: Settings,
    name: str | None,
    engine: str,
    data: str | None,
    since: str | None,
    until: str | None,
    suggest: bool,
    applied: bool,
    history: bool,
    no_keep: bool,
    html: str | None,
    document: str | None,
) -> int:
    """Whether the rows of a source, view or service are as they are expected to be.

    NAME is a source (its rows are read), a view (its values of now, for every known entity) or a service (what it served, where
    that is kept); by default all of which something is expected. Exit status: 0 when everything holds, 1 when something of
    severity warning or critical failed, 3 when nothing failed and something could not be judged.

    \b
    fs validate departures --since 2013-02-01
    fs validate departures --suggest             expectations as code, to be edited
    fs validate delay --data sets/delay          the rows of a training set
    """  # noqa: D301  \b keeps click from joining lines
    if document is not None and engine != "gx":
        raise click.UsageError("--document is of --engine gx")
    with settings.store() as store:
        if history:
            return _history(settings, store, name, since)
        if suggest:
            return _suggest(settings, store, name, data, since, until, applied=applied)
        with settings.progress("judging rows") as say:
            names = [name] if name is not None else store.expecting(applied=applied)
            if not names:
                settings.note(
                    "nothing is expected of anything\n  `fs validate NAME --suggest` proposes what could be"
                )
            done = []
            for one in names:
                say(one)
                bounded = {"start": since, "end": until}
                done.append(
                    store.validate(one, data, engine=engine, applied=applied, keep=not no_keep, **bounded)  # type: ignore[arg-type]
                )
    if html is not None:
        from featurestore.validation.page import page

        Path(html).write_text(page(done), encoding="utf-8")
        settings.note(f"wrote {html}")
    if document is not None:
        Path(document).write_text(json.dumps([v.document for v in done], indent=2), encoding="utf-8")
        settings.note(f"wrote {document}")
    if settings.json:
        print_json([v.to_json() for v in done])
    else:
        for validation in done:
            show(validation)
    return status_of(done)


def status_of(done: Sequence[Validation]) -> int:
    """The exit status; what is there for information alone fails nothing."""
    if any(v.expectation.severity != "info" for one in done for v in one.failed):
        return ERROR
    return NOT_EVALUATED if any(one.not_evaluated for one in done) else OK


def show(validation: Validation) -> None:
    """One validation, for people."""
    rows = "no rows" if validation.rows is None else f"{validation.rows:,} rows"
    head = f"{validation.kind} {validation.name}"
    click.echo(
        f"{click.style(head, bold=True)}  {rows}, by {validation.engine} in {validation.seconds:.2f} s"
    )
    if not validation.verdicts:
        click.echo(
            f"  nothing is expected of it\n  `fs validate {validation.name} --suggest` proposes what could be"
        )
        return
    print_table(
        ("outcome", "expectation", "observed", "judged", "unexpected", "on failure"),
        [_line(v) for v in validation.verdicts],
        "  ",
    )
    for verdict in validation.verdicts:
        if not verdict.passed:
            _more(verdict)
    counts = [(len(validation.verdicts) - len(validation.failed) - len(validation.not_evaluated), "passed")]
    counts += [(len(validation.failed), "failed"), (len(validation.not_evaluated), "not_evaluated")]
    said = ", ".join(click.style(f"{n} {_said(o)}", fg=_COLOURS[o]) for n, o in counts if n)
    click.echo(f"  {said}\n")


def _line(verdict: Verdict) -> tuple[object, ...]:
    observed = verdict.observed
    if isinstance(observed, float):
        observed = f"{observed:.6g}"
    outcome = _said(verdict.outcome)
    on = "" if verdict.expectation.on_failure == "warn" else verdict.expectation.on_failure
    return outcome, verdict.expectation.name, observed, verdict.considered, verdict.unexpected, on


def _said(outcome: str) -> str:
    return outcome.replace("_", " ")


def _more(verdict: Verdict) -> None:
    mark = click.style(_said(verdict.outcome), fg=_COLOURS[verdict.outcome])
    click.echo(f"  {mark} {verdict.expectation.name}: {verdict.why}")
    if verdict.examples:
        click.echo(f"    such as {'; '.join(verdict.examples)}")


def _suggest(
    settings: Settings,
    store: FeatureStore,
    name: str | None,
    data: str | None,
    since: str | None,
    until: str | None,
    *,
    applied: bool,
) -> int:
    from featurestore.validation.code import code, suite_code

    if name is None and data is None:
        raise click.UsageError("--suggest wants a NAME, or --data")
    with settings.progress("looking at rows"):
        found = store.suggest_expectations(name, data, start=since, end=until, applied=applied)
    if settings.json:
        print_json([{"code": code(e), "text": e.text} for e in found])
    else:
        click.echo(suite_code(found))
        settings.note("to be edited: it says what these rows are like, not what they should be")
    return OK


def _history(settings: Settings, store: FeatureStore, name: str | None, since: str | None) -> int:
    found = store.validations(name, since=since)
    if settings.json:
        print_json([v.to_json() for v in found])
        return OK
    print_table(
        ("at", "name", "occasion", "engine", "rows", "failed", "not evaluated", "who"),
        [
            (moment_text(v.at), v.name, v.where, v.engine, v.rows, len(v.failed), len(v.not_evaluated), v.who)
            for v in found
        ],
    )
    return OK
