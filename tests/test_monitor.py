"""Monitors: one pass over what is watched, what it keeps and tells, retraining, and what Prometheus and Grafana are given."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from featurestore import FeatureStore
from featurestore.check import Objective
from featurestore.cli.app import main
from featurestore.conditions import CONDITIONS
from featurestore.errors import NotFound
from featurestore.monitor import objectives, results
from featurestore.monitor.exported import METRICS, dashboard, expressions, rules, rules_yaml
from featurestore.monitor.run import watch
from featurestore.policy import Alert, Monitor
from featurestore.time import DAY, HOUR, MINUTE, days, seconds

ROOT = Path(__file__).parent.parent
LAST = 40  # the day on which amounts move

DEFINITIONS = """
import featurestore as fs
from featurestore import Alert, Monitor, Trigger, check, retrain

card = fs.Entity("card", key="card_id")
purchases = fs.BatchSource("purchases", fs.Parquet("purchases.parquet"), "at",
    columns={"card_id": fs.Int64, "amount": fs.Float64, "shop": fs.String, "at": fs.Timestamp})
spend = fs.FeatureView("spend", card, purchases, [fs.sum("amount").over(fs.days(1))])
fraud = fs.FeatureService("fraud", [spend], max_staleness=fs.days(2))

amounts = Monitor("amounts", on=purchases, baseline="previous 28d",
    checks=[check.schema(), check.rows(), check.drift("amount", "shop")],
    alerts=[Alert("drift"), Alert("row-count", severity="critical"), Alert("schema"), Alert("not-judged", severity="info")])
promise = Monitor("promise", on=fraud, every=fs.hours(1), checks=[check.fresh()],
    alerts=[Alert("freshness", severity="critical")])
again = Trigger(fraud, when=[retrain.drift(share=0.5), retrain.every(fs.days(365))], run=[PYTHON, "-c", SCRIPT],
    cooldown=fs.days(3))
"""
SCRIPT = "import os, pathlib; pathlib.Path('ran').open('a').write(os.environ['FS_TRIGGER_REASON'] + chr(10))"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fs.toml").write_text('[project]\nname = "cards"\n')
    text = DEFINITIONS.replace("PYTHON", repr(sys.executable)).replace("SCRIPT", repr(SCRIPT))
    (tmp_path / "cards.py").write_text(text)
    put(tmp_path)
    with FeatureStore(tmp_path) as store:
        store.apply()
        store.materialize(end=LAST * DAY)
    return tmp_path


def put(folder: Path, days: int = LAST + 1, rows: int = 300, *, without: tuple[str, ...] = ()) -> None:
    """Purchases of so many days, of which those of day 40 cost half a standard deviation more."""
    rng = np.random.default_rng(1)
    at = np.repeat(np.arange(days), rows)
    table = {
        "card_id": pa.array(rng.integers(0, 50, len(at))),
        "amount": pa.array(rng.normal(20, 5, len(at)) + 4 * (at == LAST)),
        "shop": pa.array(rng.choice(["north", "south"], len(at))),
        "at": pa.array(at * DAY + rng.integers(0, DAY, len(at)), pa.timestamp("us")),
    }
    pq.write_table(
        pa.table({n: c for n, c in table.items() if n not in without}), folder / "purchases.parquet"
    )


def fired(store: FeatureStore) -> list[tuple[str, str, str]]:
    return sorted((a.on, a.title, a.subject) for a in store.alerts() if a.state == "firing")


def test_a_pass_finds_what_moved_keeps_it_and_tells_of_it_until_it_is_over(project: Path) -> None:
    with FeatureStore(project) as store:
        before = store.monitor(at=LAST * DAY)
        assert before.firing == []
        assert [str(h) for h in before.health] == [
            "fraud: healthy — inputs look as usual, data is fresh, columns are as planned"
        ]
        ran = store.monitor(at=(LAST + 1) * DAY)
        assert fired(store) == [("purchases", "drift", "amount")]
        (health,) = ran.health
        assert (
            str(health) == "fraud: needs a look — inputs no longer look like those it learned from (amount)"
        )
        assert ran.delivered.sent == 1
        assert store.monitor(at=(LAST + 1) * DAY + HOUR).delivered.sent == 0
        files = str(results.folder(store.config) / "*.parquet")
        sql = f"SELECT DISTINCT subject FROM '{files}' WHERE condition = 'drift' AND state = 'bad'"
        bad = duckdb.connect().execute(sql).fetchall()
        assert bad == [("amount",)]


def test_what_cannot_be_looked_at_is_a_finding_and_the_rest_is_looked_at(project: Path) -> None:
    put(project, without=("shop",))
    with FeatureStore(project) as store:
        ran = store.monitor(["amounts"], at=(LAST + 1) * DAY)
        assert ("purchases", "schema", "shop") in fired(store)
        assert ("purchases", "drift", "amount") in fired(store)
        (project / "purchases.parquet").unlink()
        ran = store.monitor(["amounts"], at=(LAST + 1) * DAY + 1)
        unjudged = [f for f in ran.findings if f.condition == "not-judged" and f.state == "bad"]
        assert {f.subject for f in unjudged} == {"schema", "rows", "drift"}
        assert all("no file matches" in f.said for f in unjudged)
        assert ("purchases", "drift", "amount") in fired(store), "what could not be judged is not over"


def test_an_expectation_that_fails_in_the_window_is_told_once_and_is_over_when_it_holds_again(
    project: Path,
) -> None:
    file = project / "cards.py"
    text = file.read_text()
    text = text.replace(
        '"at",\n', '"at", expectations=[expect.between("amount", -50, 90), expect.fresh(fs.days(400))],\n'
    )
    text = text.replace("import Alert", "import expect, Alert")
    file.write_text(
        f"{text}\nexpected = Monitor('expected', on=purchases, window=fs.days(1), checks=[check.expectations()],\n"
        "    alerts=[Alert('expectation', severity='critical', channels=['log'])])\n"
    )
    rows = pq.read_table(project / "purchases.parquet")
    day, bad = LAST - 1, rows["amount"].to_pylist()
    moments = rows["at"].cast(pa.int64()).to_pylist()
    place = next(i for i, at in enumerate(moments) if at // DAY == day)
    bad[place] = 10_000.0
    with FeatureStore(project) as store:
        store.apply()
        told = []
        for column, at in (
            (rows["amount"], day * DAY + DAY),
            (pa.chunked_array([bad]), day * DAY + DAY + HOUR),
            (pa.chunked_array([bad]), day * DAY + DAY + 2 * HOUR),
            (rows["amount"], day * DAY + DAY + 3 * HOUR),
            (rows["amount"], day * DAY + DAY + 4 * HOUR),
        ):
            pq.write_table(rows.set_column(1, "amount", column), project / "purchases.parquet")
            ran = store.monitor(["expected"], at=at)
            mine = {a.subject: a.state for a in ran.alerts if a.monitor == "expected"}
            told.append((ran.delivered.sent, mine))
            found = {f.subject: f.state for f in ran.findings if f.condition == "expectation"}
            assert found["newest at within 400d"] == "ok", "ages are of the moment that is looked at"
    name = "amount between -50 and 90"
    assert told == [
        (0, {}),
        (1, {name: "firing"}),
        (0, {name: "firing"}),
        (1, {name: "resolved"}),
        (0, {name: "resolved"}),
    ]


def test_a_webhook_that_cannot_be_reached_ends_no_pass_and_is_tried_again(project: Path) -> None:
    settings = '[alerts.channels.hook]\nkind = "webhook"\nurl = "http://127.0.0.1:9/in"\n'
    (project / "fs.toml").write_text(f'[project]\nname = "cards"\n{settings}')
    file = project / "cards.py"
    file.write_text(file.read_text().replace('Alert("drift")', 'Alert("drift", channels=["hook"])'))
    with FeatureStore(project) as store:
        store.monitor(at=LAST * DAY)
        at = (LAST + 1) * DAY
        ran = store.monitor(at=at)
        assert fired(store) == [("purchases", "drift", "amount")]
        (why,) = ran.delivered.failed
        assert "127.0.0.1:9" in why
        assert ran.delivered.sent == 0
        (project / "fs.toml").write_text('[project]\nname = "cards"\n[alerts.channels.hook]\nkind = "log"\n')
    with FeatureStore(project) as store:
        later = store.monitor(["promise"], at=at + HOUR)
        # The message, and one that messages did not arrive for an hour.
        assert (later.delivered.sent, later.delivered.failed) == (2, ())
        assert ("featurestore", "delivery", "hook") in fired(store)


def test_days_without_rows_are_seen_and_held_against_no_feature(project: Path) -> None:
    put(project, days=30)
    with FeatureStore(project) as store:
        store.monitor(["amounts"], at=31 * DAY)
        assert fired(store) == [("purchases", "not-judged", "drift"), ("purchases", "row-count", "")]
        (rows,) = [a for a in store.alerts() if a.title == "row-count"]
        assert rows.said.startswith("0 rows; usual are 2")


def test_a_monitor_runs_no_more_often_than_it_says_unless_it_is_named(project: Path) -> None:
    with FeatureStore(project) as store:
        at = LAST * DAY
        assert store.monitor(at=at).skipped == ()
        assert store.monitor(at=at + 59 * MINUTE).skipped == ("promise",)
        assert store.monitor(["promise"], at=at + 59 * MINUTE).skipped == ()
        assert store.monitor(at=at + 2 * HOUR).skipped == ()
        with pytest.raises(NotFound, match="did you mean 'promise'"):
            store.monitor(["promises"])


def test_what_is_served_past_its_promise_is_critical_and_over_when_it_is_fresh_again(project: Path) -> None:
    with FeatureStore(project) as store:
        ran = store.monitor(["promise"], at=(LAST + 3) * DAY)
        assert fired(store) == [("fraud", "freshness", "spend")]
        assert str(ran.health[0]) == "fraud: failing — its data is older than promised (spend)"
        store.materialize(end=(LAST + 3) * DAY)
        store.monitor(["promise"], at=(LAST + 3) * DAY + 1)
        assert fired(store) == []


def test_the_runs_of_past_days_become_one_file_and_no_row_comes_twice(project: Path) -> None:
    with FeatureStore(project) as store:
        for hour in range(0, 72, 12):
            store.monitor(["promise"], at=LAST * DAY + hour * HOUR)
        names = sorted(p.name for p in results.folder(store.config).iterdir())
        assert [n[:14] for n in names] == [
            "day-1970-02-10",
            "day-1970-02-11",
            "run-1970-02-12",
            "run-1970-02-12",
        ]
        whole = store.monitoring()
        kept = pq.read_table(results.folder(store.config) / names[0])
        pq.write_table(
            kept, results.folder(store.config) / "run-1970-02-10T000000Z.parquet"
        )  # a run killed before it removed it
        assert store.monitoring().num_rows == whole.num_rows


def test_the_commands(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fs(*arguments: str) -> tuple[int, str]:
        status = main(list(arguments))
        return status, capsys.readouterr().out

    assert fs("monitor", "run", "--at", moment(LAST))[0] == 0
    status, out = fs("monitor", "run", "--at", moment(LAST + 1), "--textfile", "fs.prom")
    assert (status, "fraud: needs a look" in out, "amount" in out) == (1, True, True)
    families = {f.name: f for f in text_string_to_metric_families(Path("fs.prom").read_text())}
    assert set(families) == set(METRICS)
    assert [s.value for s in families["fs_alert_firing"].samples if s.labels["alert"] == "drift"] == [1.0]
    status, out = fs("alerts", "list", "--json")
    (alert,) = json.loads(out)["alerts"]
    assert (status, alert["alert"], alert["models"], alert["state"]) == (1, "drift", ["fraud"], "firing")
    assert "acked by ada" in fs("alerts", "ack", alert["id"][:8], "--who", "ada")[1]
    assert json.loads(fs("alerts", "snooze", "amounts", "--for", "2h", "--json")[1])["alerts"][0][
        "muted_until"
    ]
    assert fs("alerts", "ack", "nothing")[0] == 1
    assert "drift" in fs("alerts", "list", "--all")[1]
    assert fs("monitor", "report", "--out", "r.html")[1].strip() == "r.html"
    assert yaml.safe_load(fs("monitor", "rules")[1])["groups"]
    assert json.loads(fs("monitor", "dashboard")[1])["panels"]


def moment(day: int) -> str:
    return f"1970-{'01' if day < 31 else '02'}-{day % 31 + 1:02d}"


def test_a_watch_goes_on_after_a_pass_that_failed(project: Path) -> None:
    said: list[Any] = []
    waits = iter([False, True])

    def once() -> Any:
        if not said:
            raise NotFound("monitor", "x", [])
        return "a pass"

    watch(once, lambda _: next(waits), 1.0, said.append)
    assert [type(s).__name__ for s in said] == ["NotFound", "str"]


# ------------------------------------------------------------------------------------------------------------- triggers


def test_a_retraining_runs_once_with_its_reason_and_again_after_its_cool_down(project: Path) -> None:
    with FeatureStore(project) as store:
        at = (LAST + 1) * DAY
        evaluations, done = store.triggers(at=at, dry_run=True)
        assert (evaluations[0].due, done) == (True, [])
        assert evaluations[0].reasons == ("every 365d, and it is not known to have been trained",)
        ran = store.monitor(at=at)
        (one,) = ran.triggered
        assert one.outcome == "ran well"
        assert one.reasons[0] == "1 of 2 features drift (50%, the limit is 50%)"
        assert (project / "ran").read_text().splitlines() == ["; ".join(one.reasons)]
        again = store.monitor(at=at + DAY)
        assert (again.triggered, again.evaluations[0].held_back.endswith("keeps still for 3d")) == ((), True)
        assert [t.id for t in store.trigger_history()] == [one.id]
        store.monitor(at=at + 4 * DAY)
        assert len((project / "ran").read_text().splitlines()) == 1, (
            "it no longer drifts, and a year is not over"
        )


def test_a_retraining_that_fails_is_told_and_one_that_was_killed_is_run_again_under_its_id(
    project: Path,
) -> None:
    text = (project / "cards.py").read_text()
    (project / "cards.py").write_text(text.replace(repr(SCRIPT), repr("import sys; sys.exit('no GPU')")))
    with FeatureStore(project) as store:
        at = (LAST + 1) * DAY
        ran = store.monitor(at=at)
        assert ran.triggered[0].outcome == "exit status 1: no GPU"
        store.monitor(at=at + HOUR)
        assert ("featurestore", "retraining", "fraud") in fired(store)
        with store.registry.database.writing() as transaction:
            transaction.run(
                "UPDATE fs_triggered SET ended_at = NULL, outcome = '', leased_until = ?", at + 6 * HOUR
            )
        assert store.monitor(at=at + 5 * HOUR).evaluations[0].held_back.endswith("has not ended")
        (project / "cards.py").write_text(text)
        (again,) = store.monitor(at=at + 7 * HOUR).triggered
        assert (again.id, again.attempts, again.outcome) == (ran.triggered[0].id, 2, "ran well")


def test_a_command_that_is_not_there_is_an_outcome(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (project / "cards.py").read_text()
    (project / "cards.py").write_text(text.replace(repr(sys.executable), "'no-such-program'"))
    assert main(["triggers", "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["triggered"][0]["outcome"] == "could not be run: No such file or directory"
    assert main(["triggers", "--history"]) == 0
    assert "could not be run" in capsys.readouterr().out


# ----------------------------------------------------------------------------------------------- objectives and metrics

POLICY = Objective(latency=seconds(0.01), of=0.99, availability=0.999, over=days(30))
EXPOSED = """# TYPE fs_request_seconds histogram
fs_request_seconds_bucket{service="fraud",route="a",le="0.01"} 980
fs_request_seconds_bucket{service="fraud",route="a",le="+Inf"} 1000
fs_request_seconds_count{service="fraud",route="a"} 1000
fs_request_seconds_sum{service="fraud",route="a"} 3
fs_request_seconds_count{service="other",route="a"} 7
# TYPE fs_read_failures counter
fs_read_failures_total{service="fraud"} 2
"""


def test_budgets_are_of_what_the_servers_counted() -> None:
    found = objectives.counted(text_string_to_metric_families(EXPOSED), "fraud", POLICY)
    assert found == objectives.Counted(1000.0, 2.0, 980.0)
    odd = objectives.counted(
        text_string_to_metric_families(EXPOSED), "fraud", Objective(latency=seconds(0.007))
    )
    assert odd.within is None


def test_a_budget_is_what_of_the_allowed_error_is_left_whatever_was_started_anew_in_between() -> None:
    total = [(0, 0.0), (1, 1000.0), (2, 2000.0), (3, 500.0)]  # started anew between 2 and 3
    bad = [(0, 0.0), (1, 1.0), (2, 1.0), (3, 4.0)]
    left = objectives.budget(total, bad, 0.99, since=-1)
    assert left is not None
    assert (left.total, left.bad, round(left.left, 3), round(left.burn, 3)) == (2500.0, 5.0, 0.8, 0.8)
    assert objectives.budget(total[:1], bad[:1], 0.99, since=-1) is None


def test_what_prometheus_and_grafana_are_given_names_only_metrics_that_are_exported() -> None:
    import featurestore.server.metrics  # noqa: F401  registers what the server exports

    real = {sample.name for family in REGISTRY.collect() for sample in family.samples}
    real |= {f"{family.name}{end}" for family in REGISTRY.collect() for end in _ENDS[family.type]} | set(
        METRICS
    )
    monitors = (
        Monitor("promise", on="fraud", checks=[POLICY]),
        Monitor(
            "amounts", on="purchases", alerts=[Alert("drift.effect > 1", severity="critical", name='a "b"')]
        ),
    )
    from featurestore.policy import Policies

    made = rules(Policies(monitors))
    recorded = {r["record"] for g in made["groups"] for r in g["rules"] if "record" in r}
    named = set()
    for expression in [*expressions(made), *expressions(dashboard("cards", Policies(monitors)))]:
        without = re.sub(
            r"\{[^}]*\}|\[[^\]]*\]|by \([a-z, ]+\)",
            "",
            expression,
        )
        named |= set(re.findall(r"\bfs[:_][a-z0-9_:]+", without))
    assert named - real - recorded == set()
    assert {"fs_read_failures_total", "fs_breaker_open", "fs_freshness_seconds"} <= named
    assert yaml.safe_load(rules_yaml(made)) == made
    alerts = [r for g in made["groups"] for r in g["rules"] if "alert" in r]
    assert all(set(r) == {"alert", "expr", "for", "labels", "annotations"} for r in alerts)
    assert {r["labels"]["severity"] for r in alerts} == {"warning", "critical"}
    assert all((ROOT / r["annotations"]["runbook_url"]).is_file() for r in alerts)


_ENDS = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_count", "_sum"),
    "info": ("_info",),
    "summary": ("_count", "_sum"),
}


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    pages = {p.stem for p in (ROOT / "docs" / "runbooks").glob("*.md")} - {"README"}
    assert pages == set(CONDITIONS)
    index = (ROOT / "docs" / "runbooks" / "README.md").read_text()
    for name, condition in CONDITIONS.items():
        assert f"| [{name}]({name}.md) | {condition.means} |" in index
        page = (ROOT / "docs" / "runbooks" / f"{name}.md").read_text()
        assert page.startswith(f"# {name}: ")
        assert "## Look" in page
        assert "## Usual causes, and what to do" in page


# --------------------------------------------------------------------------------------------------------------- report


class Outside(HTMLParser):
    """What a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.found += [f"{tag} {v}" for k, v in attributes if k in ("src", "href", "xlink:href") and v]


def test_the_report_is_complete_in_itself_and_escapes_what_it_is_told(project: Path) -> None:
    with FeatureStore(project) as store:
        empty = store.monitoring_report()
        assert "no runs yet" in empty
        for day in range(LAST - 2, LAST + 2):
            store.monitor(at=day * DAY)
        found = list(store.monitor(at=(LAST + 1) * DAY + 1).findings)
        results.keep(
            store.config,
            [
                results.finding_of({**row, "subject": "<script>x</script>"})
                for row in store.monitoring().to_pylist()[:3]
            ],
            (LAST + 2) * DAY,
        )
        page = store.monitoring_report()
    assert found
    seen = Outside()
    seen.feed(page)
    assert seen.found == []
    assert "script" not in seen.tags
    assert {"svg", "rect", "table"} <= set(seen.tags)
    assert not re.search(r"url\(|@import|https?://", page)
    assert "<b>fraud</b>: needs a look" in page


# ------------------------------------------------------------------------------------------ what was served, end to end


def test_what_was_served_is_watched_from_the_log_with_what_models_made_of_it(tmp_path: Path) -> None:
    (tmp_path / "fs.toml").write_text('[project]\nname = "cards"\n')
    put(tmp_path)
    text = DEFINITIONS.partition("amounts = ")[0].replace("max_staleness=fs.days(2)", "capture=fs.Capture()")
    (tmp_path / "cards.py").write_text(
        f"{text}\nserved = Monitor('served', on=fraud, window=fs.days(1), baseline='before', "
        "checks=[check.skew(), check.predictions(), check.quality(accuracy=0.9)])\n"
        "again = Trigger(fraud, when=retrain.rows(100), run=['true'])\n"
    )
    with FeatureStore(tmp_path) as store:
        store.apply()
        store.materialize(end=LAST * DAY)
        at = LAST * DAY
        keys = {"card_id": [k % 50 for k in range(200)]}
        earlier = pa.array([at - 5 * DAY + k for k in range(200)], pa.timestamp("us", "UTC"))
        table = pa.table({**keys, "at": earlier})
        set_ = store.get_historical_features(table, "fraud", timestamp="at")
        store.keep_statistics("fraud", set_.statistics())
        online = store.get_online_features("fraud", keys, at=at)
        store.capture.flush()
        store.capture.predictions(online.row_ids, [0.8] * 200, model="risk", version="1", at=at)
        labels = [k % 4 != 0 for k in range(200)]
        store.capture.labels(online.row_ids, labels, name="stolen", at=at + HOUR)
        ran = store.monitor(at=at + DAY)
        found = {(f.condition, f.subject): f for f in ran.findings}
        assert found["skew", "amount_sum_1d"].state == "ok"
        quality = found["quality", "risk 1"]
        assert (quality.state, quality.figures["accuracy"]) == ("bad", 0.75)
        assert "accuracy 0.750 is below 0.900" in quality.said
        assert found["not-judged", "predictions"].state == "bad", (
            "nothing came before, so there is no baseline"
        )
        assert [t.reasons for t in ran.triggered] == [("200 labelled rows came, of 100",)]
