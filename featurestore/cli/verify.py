"""`fs verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featurestore.cli.complete import readable_names, services
from featurestore.cli.failures import ERROR, OK
from featurestore.cli.output import moment_text, print_json, print_table, text_of
from featurestore.cli.project import Settings, command

if TYPE_CHECKING:
    from featurestore.consistency import LoggedReport
    from featurestore.verify import Certificate, Counterexample, Verdict


@command("verify")
@click.argument("name", required=False, shell_complete=readable_names)
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    help="Entities drawn from each view's source, besides those that are out of the ordinary (20); with --logged, rows (1000).",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed draws and asks otherwise.")
@click.option(
    "--engine",
    multiple=True,
    metavar="NAME",
    help="Ask this engine; may be given again. Default: all; flink where the project streams on it.",
)
@click.option(
    "--csv", type=click.Path(dir_okay=False), metavar="FILE", help="Write a counterexample's events here."
)
@click.option("--applied", is_flag=True, help="What is applied, instead of the definitions.")
@click.option(
    "--logged",
    metavar="SERVICE",
    shell_complete=services,
    help="What this service has served and captured, beside the training values of the rows' moments.",
)
@click.option("--start", metavar="TIME", help="Of --logged: requests from this moment on.")
@click.option("--end", metavar="TIME", help="Of --logged: requests before this moment.")
@click.option("--strict", is_flag=True, help="Of --logged: a difference is a failure, whatever its cause.")
def verify_command(
    settings: Settings,
    name: str | None,
    sample: int | None,
    seed: int,
    engine: tuple[str, ...],
    csv: str | None,
    applied: bool,
    logged: str | None,
    start: str | None,
    end: str | None,
    strict: bool,
) -> int:
    """Whether every engine gives the values that the reference says, on real events at adversarial moments.

    NAME is a view, a service (the views it reads, and what it computes on demand), tag:NAME or owner:NAME; by default all there
    is. How it ended is kept with the definition's fingerprint: `fs apply --verified` asks for it. Exit status: 0 when everything
    agrees, 1 when something differs or there was nothing to compare.

    With --logged SERVICE: captured rows of a service (SERVICE@2: of one version) are computed again as of their moments, and each
    difference has its cause. Exit status: 0 when every difference has one (with --strict: when there is none), 1 when one is
    unexplained, or there was nothing to compare.
    """
    if logged is not None:
        if name or engine or csv or applied:
            raise click.UsageError(
                "--logged compares what was served: NAME, --engine, --csv and --applied are of the other verification"
            )
        return _verify_logged(settings, logged, sample or 1_000, start, end, strict)
    if start or end or strict:
        raise click.UsageError("--start, --end and --strict are of --logged SERVICE: name that too")
    with settings.store() as store, settings.progress("verifying") as say:
        done = store.verify(
            name, sample=sample or 20, seed=seed, engines=list(engine) or None, applied=applied, progress=say
        )
    wrong = next((v.counterexample for v in done.verdicts if v.counterexample is not None), None)
    if csv is not None and wrong is not None:
        Path(csv).write_text(wrong.to_csv(), encoding="utf-8")
    if settings.json:
        print_json(_as_json(done))
    else:
        _show(done)
        if csv is not None and wrong is not None:
            settings.note(f"wrote {csv}, events: {len(wrong.rows)}")
        elif csv is not None:
            settings.note("nothing differs: there is no counterexample to write")
    return OK if done.passed else ERROR


def _verify_logged(
    settings: Settings, service: str, sample: int, start: str | None, end: str | None, strict: bool
) -> int:
    with settings.store() as store, settings.progress("computing what was served") as say:
        found = store.verify_logged(service, sample=sample, start=start, end=end, progress=say)
    passed = found.same if strict else found.passed
    if settings.json:
        print_json(found.to_json())
    else:
        _show_logged(found, passed)
    return OK if passed else ERROR


def _show_logged(found: LoggedReport, passed: bool) -> None:
    print_table(
        ("feature", "cells", "differing", "null on one side", "SMAPE", "edits", "causes"),
        [
            (
                f.feature,
                f.cells,
                f.differing,
                f.nulls,
                None if f.smape is None else float(f"{f.smape:.3g}"),
                None if f.edits is None else float(f"{f.edits:.3g}"),
                ", ".join(f"{cause} {n:,}" for cause, n in f.causes.items()) or None,
            )
            for f in found.features
        ],
    )
    examples = [(f.feature, e) for f in found.features for e in f.examples]
    if examples:
        click.echo()
        print_table(
            ("feature", "row", "served", "now", "cause", "by"),
            [(n, e.row_id, text_of(e.served), text_of(e.now), e.cause, e.note or None) for n, e in examples],
        )
    for why, rows in found.left_out.items():
        click.echo(f"\n{rows:,} rows are left out: {why}")
    said = click.style(
        "consistent" if passed else "not consistent", fg="green" if passed else "red", bold=True
    )
    click.echo(f"\n{said}: {found.summary()}, in {found.seconds:.1f} s")


def _show(done: Certificate) -> None:
    headers = ("view", "outcome", "entities", "events", "questions", "cells", "differing")
    print_table(
        headers,
        [
            (
                v.view if v.kind == "view" else f"service {v.view}",
                v.outcome,
                v.entities,
                v.events,
                v.moments,
                v.cells,
                v.differing,
            )
            for v in done.verdicts
        ],
    )
    if len(done.verdicts) == 1:
        click.echo()
        print_table(
            ("feature", "engine", "class", "cells", "differing"),
            [(t.feature, t.engine, t.parity, t.cells, t.differing) for t in done.verdicts[0].tallies],
        )
    for verdict in done.verdicts:
        for lacking in verdict.unchecked:
            click.echo(
                f"\n{verdict.kind} '{verdict.view}' was not checked in {lacking.engine}: {lacking.reason}"
            )
        if verdict.outcome == "unchecked" and not verdict.tallies:
            click.echo(f"\n{verdict.kind} '{verdict.view}' was compared with no engine: that is no pass")
        if verdict.outcome == "empty":
            click.echo(f"\n{verdict.kind} '{verdict.view}' has no event to compare: that is no pass")
        if verdict.counterexample is not None:
            click.echo()
            _show_counterexample(verdict.counterexample)
    colour = "green" if done.passed else "red"
    said = "certified" if done.passed else "not certified"
    click.echo(
        f"\n{click.style(said, fg=colour, bold=True)}: {done.cells:,} cells compared in {done.seconds:.1f} s, "
        f"sample {done.sample}, seed {done.seed}, engines {', '.join(done.engines)}"
    )


def _show_counterexample(found: Counterexample) -> None:
    name = f"{found.view}{':' if found.kind == 'view' else '.'}{found.feature}"
    click.echo(click.style(f"{name} differs in {found.engine}", fg="red", bold=True))
    click.echo(f"  {found.means}")
    key = ", ".join(f"{k}={v}" for k, v in found.key.items())
    click.echo(f"  of {key} at {moment_text(found.asked)}, {found.why}")
    if found.known_until < found.asked:
        click.echo(f"  written as of {moment_text(found.known_until)}")
    rows = "events" if found.kind == "view" else "rows"
    whole = "" if found.minimal else " (fewer did not show it again: the whole sample)"
    click.echo(f"\n  {rows}{whole}")
    print_table(found.columns, found.rows, "  ")
    click.echo()
    for line in found.picture:
        click.echo(f"  {line}")
    if found.picture:
        click.echo()
    print_table(("engine", "value", "status"), [(s.engine, s.value, s.status.name) for s in found.said], "  ")


def _as_json(done: Certificate) -> dict[str, Any]:
    def verdict(v: Verdict) -> dict[str, Any]:
        details = done.details(v)
        shared = ("sample", "seed", "engines", "versions")
        return {
            v.kind: v.view,
            "fingerprint": v.fingerprint,
            "outcome": v.outcome,
            **{k: x for k, x in details.items() if k not in shared},
        }

    return {
        "passed": done.passed,
        "cells": done.cells,
        "sample": done.sample,
        "seed": done.seed,
        "engines": list(done.engines),
        "versions": dict(done.versions),
        "made_at": moment_text(done.made_at),
        "seconds": round(done.seconds, 3),
        "views": [verdict(v) for v in done.verdicts if v.kind == "view"],
        "services": [verdict(v) for v in done.verdicts if v.kind == "service"],
    }
