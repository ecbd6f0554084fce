"""`fs stats`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featurestore.cli.complete import readable_names
from featurestore.cli.output import moment_text, print_fields, print_json, print_table
from featurestore.cli.project import Settings, command

if TYPE_CHECKING:
    from featurestore.datasets.card import Card
    from featurestore.refreshing import Refreshed
    from featurestore.statistics import FeatureStatistics, Statistics, Summary

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 40


@command("stats")
@click.argument("name", shell_complete=readable_names)
@click.option(
    "--spine",
    type=click.Path(),
    metavar="FILE",
    help="Make them of a training set of these rows, and keep them.",
)
@click.option(
    "--timestamp",
    default="event_timestamp",
    show_default=True,
    metavar="COLUMN",
    help="Of --spine: when rows are asked.",
)
@click.option(
    "--materialized", is_flag=True, help="Make them of what the online store holds of a view, and keep them."
)
@click.option("--stream", is_flag=True, help="Add what a stream wrote of a view since the last time.")
@click.option("--served", is_flag=True, help="Add what a service served since the last time, out of its log.")
@click.option("--hourly", is_flag=True, help="Of --served: by hour, not by day.")
@click.option(
    "--refresh", is_flag=True, help="Add what was served since, and make partitions again whose data changed."
)
@click.option(
    "--at", metavar="TIME", help="Of --materialized and --stream: the moment to read at. Default: now."
)
@click.option("--add", is_flag=True, help="Merge with what is kept, instead of taking its place.")
@click.option("--origin", metavar="ORIGIN", help="Which are shown: training, materialized, served or stream.")
@click.option("--start", metavar="TIME", help="Only partitions (days) from here on.")
@click.option("--end", metavar="TIME", help="Only partitions that begin before this.")
@click.option(
    "--feature", metavar="FEATURE", help="One feature: its histogram, its values, its course over time."
)
@click.option("--label", metavar="COLUMN", help="Of a training set's folder: what a model is to predict.")
@click.option(
    "--by", metavar="COLUMN", help="Of a training set's folder: the column whose values are slices."
)
def stats_command(
    settings: Settings,
    name: str,
    spine: str | None,
    timestamp: str,
    materialized: bool,
    stream: bool,
    served: bool,
    hourly: bool,
    refresh: bool,
    at: str | None,
    add: bool,
    origin: str | None,
    start: str | None,
    end: str | None,
    feature: str | None,
    label: str | None,
    by: str | None,
) -> None:
    """What the values of a service or view look like, or the card of a training set.

    NAME is a service, a view, or the folder of a training set.

    \b
    fs stats delay --spine data/spine.parquet    makes and keeps them
    fs stats delay --feature dep_delay_mean_1d   one feature
    fs stats delay --served                      what was served, by day
    fs stats sets/delay --label late --by carrier
    """  # noqa: D301  \b keeps click from joining lines
    if (Path(name) / "_manifest.json").exists():
        _card(settings, name, label, by, feature)
        return
    if label is not None or by is not None:
        raise click.UsageError(
            "--label and --by are of the folder of a training set, which `fs dataset` writes"
        )
    own = name.partition("@")[0]
    refreshed: list[Refreshed] = []
    with settings.store() as store, settings.progress("reading values"):
        if spine is not None:
            made = store.get_historical_features(spine, name, timestamp=timestamp).statistics()
            store.keep_statistics(own, made, add=add, spine=spine, timestamp=timestamp)
            origin = origin or "training"
        if materialized:
            read_at = at or datetime.now(UTC)
            made = store.materialized_statistics(name, at=read_at)
            store.keep_statistics(name, made, origin="materialized", add=add, at=read_at)
            origin = origin or "materialized"
        if stream:
            store.streamed_statistics(name, at=at)
            origin = origin or "stream"
        if served:
            store.served_statistics(own, hourly=hourly)
            origin = origin or "served"
        if refresh:
            refreshed = store.refresh_statistics(own)
        statistics = store.statistics(own, origin=origin)
        stale = store.stale_statistics(own)
    chosen = _window(statistics, start, end)
    if feature is not None:
        _feature(settings, statistics, chosen, feature)
    elif settings.json:
        first = {
            "name": name,
            "rows": chosen.rows,
            "from": _bound(statistics, first=True),
            "to": _bound(statistics),
        }
        marked = {o: [_start(s) for s in marks] for o, marks in stale.items()}
        more = {"stale": marked, "refreshed": [r.to_json() for r in refreshed]}
        print_json({**first, **more, "features": [f.to_json() for f in chosen]})
    else:
        _table(chosen)
        settings.note(
            f"{chosen.rows:,} rows, {len(statistics.starts)} partitions of {statistics.every} kept, "
            f"from {_bound(statistics, first=True)} to {_bound(statistics)}"
        )
    if not settings.json:
        _upkeep(settings, own, stale, refreshed)


def _upkeep(
    settings: Settings, name: str, stale: Mapping[str, Mapping[int, str]], refreshed: Sequence[Refreshed]
) -> None:
    """What was made again, and what is of data that there is no longer."""
    for done in refreshed:
        if done.rows or done.rebuilt:
            settings.note(f"{done.origin}: {done.rows:+,} rows, {len(done.rebuilt)} partitions made again")
    for origin, marks in stale.items():
        whys = "; ".join(dict.fromkeys(marks.values()))
        click.echo(
            f"  {len(marks)} partitions of {origin} rows are stale ({whys}): fs stats {name} --refresh"
        )


def _start(start: int) -> str | None:
    from featurestore.statistics.partitions import UNDATED

    return None if start == UNDATED else moment_text(start)


def _window(statistics: Statistics, start: str | None, end: str | None) -> Summary:
    from featurestore.time import floor, moment

    if start is None and end is None:
        return statistics.total()
    step = statistics.every.microseconds
    first = None if start is None else floor(moment(start), step)
    last = None if end is None else -floor(-moment(end), step)
    return statistics.window(first, last)


def _bound(statistics: Statistics, *, first: bool = False) -> str | None:
    starts = statistics.starts
    if not starts:
        return None
    return moment_text(starts[0] if first else starts[-1] + statistics.every.microseconds)


# ------------------------------------------------------------------------------------------------------------- for people


def _table(summary: Iterable[FeatureStatistics]) -> None:
    rows = []
    said = []
    for f in summary:
        share = None if f.null_share is None else f"{f.null_share:.1%}"
        median = f.quantile(0.5)
        numbers = [_number(f, v) for v in (f.average, f.stddev, f.minimum, median, f.maximum)]
        distinct = (
            None if f.distinct is None else f"{f.distinct:,}" if f.distinct_exact else f"~{f.distinct:,}"
        )
        rows.append([f.name, f.measures, f"{f.count:,}", share, *numbers, distinct, spark(f)])
        said += [f"{f.name}: {verdict}" for verdict in f.verdicts]
    headers = (
        "feature",
        "of",
        "count",
        "null",
        "mean",
        "stddev",
        "min",
        "median",
        "max",
        "distinct",
        "from min to max",
    )
    print_table(headers, rows)
    for line in said:
        click.echo(f"  {line}")


def spark(feature: FeatureStatistics) -> str:
    """A histogram in one line: twelve bins from least to greatest; a share above zero is never blank."""
    _, shares = feature.histogram(12)
    most = max(shares, default=0.0)
    return "".join(" " if s <= 0 else _BARS[min(int(8 * s / most), 7)] for s in shares)


def _number(feature: FeatureStatistics, value: float | None) -> str | None:
    if value is None:
        return None
    if feature.measures == "microseconds":
        return moment_text(round(value))
    return f"{value:.4g}"


def _feature(settings: Settings, statistics: Statistics, chosen: Summary, name: str) -> None:
    found = chosen[name]
    course = [(start, part[name]) for start, part in statistics]
    if settings.json:
        by_time = [{"start": moment_text(s), **_course(f)} for s, f in course]
        print_json({**found.to_json(), "partitions": by_time})
        return
    _one(found)
    if len(course) > 1:
        click.echo(f"\n{click.style('by partition', bold=True)}")
        rows = [(moment_text(s), *_course(f).values(), spark(f)) for s, f in course]
        print_table(("from", "rows", "null share", "mean", "stddev", "min to max"), rows, "  ")


def _course(f: FeatureStatistics) -> dict[str, Any]:
    def short(value: float | None) -> float | None:
        return None if value is None else float(f"{value:.4g}")

    return {
        "rows": f.rows,
        "null_share": short(f.null_share),
        "mean": short(f.average),
        "stddev": short(f.stddev),
    }


def _one(f: FeatureStatistics) -> None:
    click.echo(click.style(f"{f.name} {f.dtype}, of {f.measures}", fg="cyan", bold=True))
    said = f.to_json()
    names = (
        "rows",
        "count",
        "nulls",
        "nan",
        "infinite",
        "unread",
        "mean",
        "stddev",
        "skewness",
        "kurtosis",
        "min",
        "max",
    )
    print_fields((n, said[n]) for n in names if said[n] != 0 or n in ("rows", "count", "nulls"))
    quantiles = "  ".join(f"p{float(r) * 100:g} {_number(f, v)}" for r, v in said["quantiles"].items())
    distinct = None if f.distinct is None else f"{'' if f.distinct_exact else 'about '}{f.distinct:,}"
    print_fields([("quantiles", quantiles), ("rank error", f.rank_error or None), ("distinct", distinct)])
    for verdict in f.verdicts:
        click.echo(f"  {verdict}")
    _bars(f)
    top = f.most_frequent()
    if top:
        click.echo(f"\n{click.style('most frequent', bold=True)}")
        short = f" (too low by at most {f.frequent_error:,})" if f.frequent_error else ""
        print_table(("value", f"rows{short}"), top, "  ")


def _bars(f: FeatureStatistics) -> None:
    edges, shares = f.histogram(16)
    most = max(shares, default=0.0)
    if not most:
        return
    click.echo(f"\n{click.style('from least to greatest', bold=True)}")
    names = [_number(f, edge) or "" for edge in edges[:-1]]
    width = max(map(len, names))
    for name, share in zip(names, shares, strict=True):
        bar = "█" * max(round(_WIDTH * share / most), 1 if share > 0 else 0)
        click.echo(f"  {name.rjust(width)} {bar} {share:.1%}".rstrip())


def _card(settings: Settings, folder: str, label: str | None, by: str | None, feature: str | None) -> None:
    from featurestore.datasets.card import card

    with settings.progress("reading the training set"):
        found = card(folder, label=label, by=by)
    if feature is not None:
        one = found.statistics[feature]
        if settings.json:
            print_json(one.to_json())
        else:
            _one(one)
    elif settings.json:
        print_json(found.to_json())
    else:
        _print_card(found)


def _print_card(card: Card) -> None:
    from featurestore.datasets.card import provenance

    click.echo(click.style(f"training set {card.folder}", fg="cyan", bold=True))
    span = None if card.span is None else f"{moment_text(card.span[0])} to {moment_text(card.span[1])}"
    scaler = card.content.get("scaler")
    scaled = None if scaler is None else f"by scaler {scaler['version']}"
    print_fields(
        [("rows", card.rows), ("features", len(card.features)), ("moments", span), ("scaled", scaled)]
    )
    print_fields(provenance(card.content))
    for problem in card.problems:
        click.echo(f"  {problem}")
    _titled("features", lambda: _table(card.statistics[n] for n in card.features))
    if card.label is not None:
        rows = [(value, count, f"{count / card.rows:.1%}") for value, count in card.classes[:20]]
        _titled(f"label {card.label}", lambda: print_table(("value", "rows", "share"), rows, "  "))
    if card.slices:
        lines: Sequence[Any] = [
            (
                s.value,
                s.rows,
                None if s.label is None else f"{s.label:.4g}",
                f"{s.null_share:.1%}",
                ", ".join(f"{n} {apart:+.2f} sd" for n, apart in s.apart),
            )
            for s in card.slices
        ]
        headers = (card.by or "", "rows", "mean label", "null", "means furthest from all rows")
        _titled(f"by {card.by}", lambda: print_table(headers, lines, "  "))


def _titled(title: str, show: Any) -> None:
    click.echo(f"\n{click.style(title, bold=True)}")
    show()
