"""A validation as a page of its own: no script, no font, no address, so that it can be sent to a colleague."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from featurestore.time import moment_text
from featurestore.verdicts import Validation, Verdict

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 2rem }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #ddd; vertical-align: top }
td.n { text-align: right; font-variant-numeric: tabular-nums }
.passed { color: #17692b } .failed { color: #b3261e; font-weight: 600 } .not_evaluated { color: #8a5a00 }
small { color: #666 }
"""


def page(validations: Iterable[Validation]) -> str:
    """Every validation with its verdicts, what failed first."""
    body = "".join(map(_section, validations)) or "<p>nothing was judged</p>"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Validation</title>'
        f"<style>{_STYLE}</style></head><body><h1>Validation</h1>{body}</body></html>"
    )


def _section(v: Validation) -> str:
    rows = "no rows" if v.rows is None else f"{v.rows:,} rows"
    who = f", by {escape(v.who)}" if v.who else ""
    head = f"<h2>{escape(v.kind)} {escape(v.name)}</h2><small>{rows}, {escape(v.engine)}, {moment_text(v.at)}{who}</small>"
    names = ("", "expectation", "observed", "judged", "unexpected", "on failure", "why")
    order = {"failed": 0, "not_evaluated": 1, "passed": 2}
    lines = "".join(map(_line, sorted(v.verdicts, key=lambda x: order[x.outcome])))
    return f"{head}<table><tr>{''.join(f'<th>{n}</th>' for n in names)}</tr>{lines}</table>"


def _line(v: Verdict) -> str:
    observed = f"{v.observed:.6g}" if isinstance(v.observed, float) else v.observed
    numbers = "".join(
        f'<td class="n">{"" if n is None else f"{n:,}"}</td>' for n in (v.considered, v.unexpected)
    )
    why = escape(v.why) + (f"<br><small>{escape('; '.join(v.examples))}</small>" if v.examples else "")
    return (
        f'<tr><td class="{v.outcome}">{v.outcome.replace("_", " ")}</td><td>{escape(v.expectation.name)}</td>'
        f'<td class="n">{"" if observed is None else escape(str(observed))}</td>{numbers}'
        f"<td>{v.expectation.on_failure}, {v.expectation.severity}</td><td>{why}</td></tr>"
    )


__all__ = ["page"]
