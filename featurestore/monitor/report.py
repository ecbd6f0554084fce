"""What monitors found as one HTML file that is complete in itself: text, tables and drawings, and nothing from elsewhere."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from featurestore import ir
from featurestore.monitor.alerts import AlertState
from featurestore.monitor.health import health
from featurestore.monitor.results import finding_of
from featurestore.time import moment_text

COLOURS = {"bad": "#c62828", "ok": "#2e7d32", "unknown": "#9e9e9e"}
_WORDS = {"healthy": "#2e7d32", "needs a look": "#b26a00", "failing": "#c62828", "not watched": "#757575"}
_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #212121; max-width: 1080px; margin: 2rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .4rem; border-bottom: 1px solid #ddd; }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; } .aside { color: #616161; }
.health { font-size: 1.05rem; padding: .5rem .8rem; border-left: 6px solid; background: #fafafa; margin: .5rem 0; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0; } th { text-align: left; color: #616161; font-weight: 600; }
th, td { padding: .3rem .6rem .3rem 0; border-bottom: 1px solid #eee; vertical-align: middle; } td.n { text-align: right; }
.tag { color: #fff; border-radius: 3px; padding: 0 .4rem; font-size: .85em; white-space: nowrap; }
svg text { font: 11px system-ui, sans-serif; fill: #616161; } svg { display: block; max-width: 100%; height: auto; }
"""
WIDTH, HEIGHT, LEFT = 1000, 14, 230
MOST_SUBJECTS = 40


def report_of(
    project: str, services: Sequence[ir.Service], findings: Any, alerts: Sequence[AlertState], at: int
) -> str:
    """The report of a project: health, alerts, and of each monitor what it found over time, as `results.read` has it."""
    rows = findings.to_pylist()
    last = {row["monitor"]: row["run_at"] for row in rows}
    newest = [finding_of(r) for r in rows if r["run_at"] == last[r["monitor"]]]
    runs = sorted({r["run_at"] for r in rows})
    spans = (
        f"{len(runs):,} runs from {_day(runs[0])} to {_day(runs[-1])}"
        if runs
        else "no runs yet: <code>fs monitor run</code>"
    )
    parts = [
        f"<h1>{escape(project)}: what monitors found</h1>",
        f'<p class="aside">{spans}. Made {moment_text(at)[:19]}Z.</p>',
        "<h2>Services</h2>",
        *(_health_line(str(h), h.word) for h in health(services, newest, alerts)),
        "<h2>Alerts</h2>",
        _alerts(alerts),
        *(_monitor(name, [r for r in rows if r["monitor"] == name]) for name in sorted(last)),
    ]
    title = escape(f"{project}: monitoring")
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head = f"{meta}<title>{title}</title><style>{_STYLE}</style>"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _day(moment: Any) -> str:
    return str(moment.strftime("%Y-%m-%d %H:%M"))


def _health_line(text: str, word: str) -> str:
    name, _, rest = text.partition(": ")
    return f'<p class="health" style="border-color:{_WORDS[word]}"><b>{escape(name)}</b>: {escape(rest)}</p>'


def _alerts(alerts: Sequence[AlertState]) -> str:
    live = [a for a in alerts if a.state != "resolved"]
    over = sorted((a for a in alerts if a.state == "resolved"), key=lambda a: -(a.resolved or 0))[:30]
    shown = [*live, *over]
    if not shown:
        return "<p>Nothing fires, and nothing did.</p>"
    colours = {"firing": "#c62828", "pending": "#b26a00", "resolved": "#2e7d32"}
    rows = [
        (
            f'<span class="tag" style="background:{colours[a.state]}">{a.state}</span>',
            escape(a.severity),
            escape(a.on),
            escape(a.title) + (f"<br><span class='aside'>{escape(a.subject)}</span>" if a.subject else ""),
            moment_text(a.since)[:16].replace("T", " ")
            + (f"<br>to {moment_text(a.resolved)[:16].replace('T', ' ')}" if a.resolved else ""),
            escape(a.said),
        )
        for a in shown
    ]
    return _table(("", "severity", "on", "alert", "since", "what"), rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(h)}</th>" for h in heads)
    body = "".join(f"<tr>{''.join(f'<td>{c}</td>' for c in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


# ------------------------------------------------------------------------------------------------------------- monitors


def _monitor(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """A monitor: a strip for each subject, coloured by what was found in each run, and the course of its effects."""
    conditions = list(dict.fromkeys(r["condition"] for r in rows))
    out = [f"<h2>{escape(name)} <span class='aside'>on {escape(rows[-1]['on'])}</span></h2>"]
    bad = sorted({(r["condition"], r["subject"]) for r in rows if r["state"] == "bad"})
    quiet = [c for c in conditions if not any(b[0] == c for b in bad)]
    for condition in conditions:
        own = [r for r in rows if r["condition"] == condition]
        if condition in quiet or (condition == "not-judged" and not any(r["state"] == "bad" for r in own)):
            continue
        out.append(f"<h3>{escape(condition)}</h3>{_strips(own)}")
        if condition in ("drift", "skew", "prediction-drift", "label-shift"):
            out.append(_courses(own))
        out.append(_worst(own))
    if quiet:
        runs = len({r["run_at"] for r in rows})
        out.append(f"<p class='aside'>Well in all {runs} runs: {escape(', '.join(quiet))}.</p>")
    return "".join(out)


def _strips(rows: Sequence[Mapping[str, Any]]) -> str:
    """Subjects below each other, time from left to right: red is bad, green is well, grey could not be judged."""
    runs = sorted({r["run_at"] for r in rows})
    places = {run: i for i, run in enumerate(runs)}
    step = (WIDTH - LEFT) / len(runs)
    badness = {
        s: sum(r["state"] == "bad" for r in rows if r["subject"] == s) for s in {r["subject"] for r in rows}
    }
    subjects = sorted(badness, key=lambda s: (-badness[s], s))[:MOST_SUBJECTS]
    body = []
    for line, subject in enumerate(subjects):
        y = 16 + line * (HEIGHT + 4)
        body.append(
            f'<text x="{LEFT - 8}" y="{y + 11}" text-anchor="end">{escape(subject[:36] or "the whole")}</text>'
        )
        body += [_run_of(r, places[r["run_at"]], step, y) for r in rows if r["subject"] == subject]
    height = 16 + len(subjects) * (HEIGHT + 4)
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img">{_months(runs, step)}{"".join(body)}</svg>'


def _run_of(row: Mapping[str, Any], place: int, step: float, y: int) -> str:
    said = escape(f"{_day(row['run_at'])}: {row['said']}")
    return (
        f'<rect x="{LEFT + place * step:.1f}" y="{y}" width="{max(step - 0.4, 0.6):.2f}" height="{HEIGHT}" '
        f'fill="{COLOURS[row["state"]]}"><title>{said}</title></rect>'
    )


def _months(runs: Sequence[Any], step: float) -> str:
    """Where days or months begin, as many as there is room for."""
    out, free = [], 0.0
    for i, run in enumerate(runs):
        new = i == 0 or run.month != runs[i - 1].month or len(runs) <= 31
        x = LEFT + i * step
        if new and x >= free:
            out.append(f'<text x="{x:.1f}" y="11">{run.strftime("%-d %b")}</text>')
            free = x + 56
    return "".join(out)


def _courses(rows: Sequence[Mapping[str, Any]]) -> str:
    """The effect of the subjects that were bad, run by run."""
    runs = sorted({r["run_at"] for r in rows})
    if len(runs) < 2:
        return ""
    badness: dict[str, float] = {}
    for r in rows:
        if r["state"] == "bad":
            badness[r["subject"]] = badness.get(r["subject"], 0) + 1
    chosen = sorted(badness, key=lambda s: (-badness[s], s))[:6]
    series = {
        s: [
            (runs.index(r["run_at"]), json.loads(r["figures"]).get("effect"))
            for r in rows
            if r["subject"] == s
        ]
        for s in chosen
    }
    most = max((e for line in series.values() for _, e in line if e is not None), default=0.0)
    if not most:
        return ""
    top = min(most, 3.0)
    step, tall = (WIDTH - LEFT) / max(len(runs) - 1, 1), 130
    hues = ("#1565c0", "#c62828", "#2e7d32", "#6a1b9a", "#ef6c00", "#00838f")
    body = [f'<line x1="{LEFT}" x2="{WIDTH}" y1="{tall}" y2="{tall}" stroke="#bbb"/>']
    for level in (top, top / 2):
        y = tall - level / top * (tall - 12)
        body.append(f'<line x1="{LEFT}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#eee"/>')
        body.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{level:.2g} sd</text>')
    for line, (subject, points) in enumerate(series.items()):
        path = " ".join(
            f"{LEFT + i * step:.1f},{tall - min(e, top) / top * (tall - 12):.1f}"
            for i, e in points
            if e is not None
        )
        body.append(f'<polyline points="{path}" fill="none" stroke="{hues[line]}" stroke-width="1.4"/>')
        body.append(
            f'<text x="4" y="{30 + line * 15}" style="fill:{hues[line]}">{escape(subject[:30])}</text>'
        )
    return f'<svg viewBox="0 0 {WIDTH} {tall + 6}" role="img">{"".join(body)}</svg>'


def _how_bad(figures: Mapping[str, float]) -> float:
    """A figure to order by: the effect, or how many times too many or too few."""
    if "ratio" in figures:
        return abs(math.log(max(figures["ratio"], 1e-3)))
    return float(figures.get("effect", 0.0))


def _worst(rows: Sequence[Mapping[str, Any]], most: int = 8) -> str:
    """The findings that say most: those that were bad, by effect, the newest first among equals."""
    bad = [(_how_bad(json.loads(r["figures"])), r) for r in rows if r["state"] == "bad"]
    seen: dict[str, tuple[float, Mapping[str, Any]]] = {}
    for effect, r in bad:
        if r["subject"] not in seen or effect >= seen[r["subject"]][0]:
            seen[r["subject"]] = effect, r
    count = {s: sum(r["subject"] == s for _, r in bad) for s in seen}
    ordered = sorted(seen.values(), key=lambda e: -e[0])[:most]
    table = [
        (
            escape(r["subject"] or "the whole"),
            f"{count[r['subject']]:,}",
            _day(r["run_at"]),
            f"{effect:.2f}" if "effect" in r["figures"] else "",
            escape(r["said"]),
        )
        for effect, r in ordered
    ]
    return _table(("subject", "runs", "at its worst", "effect", "what was found then"), table)


__all__ = ["report_of"]
