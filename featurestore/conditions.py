"""Every condition that an alert may be about: what it means in a sentence, and the next step. Each has a runbook of its name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Condition:
    """`means` completes "it fires when"; `next_step` is for whoever is woken. `figures` may be compared in `Alert(when=…)`."""

    name: str
    means: str
    next_step: str
    figures: tuple[str, ...] = ()


_ALL = (
    Condition(
        "drift",
        "a feature no longer looks like its baseline",
        "see which features moved and by how much: `fs drift NAME --all`; look upstream before you retrain",
        ("effect", "p", "share", "features"),
    ),
    Condition(
        "schema",
        "a column came, went, or is of another type",
        "ask the owner of the source; `fs plan` shows what taking the new schema over would change",
    ),
    Condition(
        "row-count",
        "far more or far fewer rows came than usual",
        "see whether the source was delivered whole, or twice: `fs stats NAME`, then `fs holes`",
        ("rows", "ratio"),
    ),
    Condition(
        "label-shift",
        "labels are shared out otherwise than in the baseline",
        "check that labels are made as before; if they are, the world changed: retrain, or move the threshold",
        ("effect", "p"),
    ),
    Condition(
        "prediction-drift",
        "predictions are spread otherwise than in the baseline",
        "see whether inputs drifted too (`fs drift SERVICE`) or a new model version was let in",
        ("effect", "p"),
    ),
    Condition(
        "skew",
        "what was served does not look like what was trained on",
        "`fs verify SERVICE`, then `fs why SERVICE REQUEST_ID` for one row: the same definition has to give both",
        ("effect", "p", "share", "features"),
    ),
    Condition(
        "quality",
        "predictions are worse than they were, now that labels are known",
        "see which slices lost (`fs monitor report`); retrain on newer rows, or go back to the version before",
        ("accuracy", "log_loss", "calibration", "effect"),
    ),
    Condition(
        "stuck-output",
        "a model gives the same answer to everyone",
        "ask the model server; a constant input or a failed load is the usual cause",
        ("minutes", "predictions"),
    ),
    Condition(
        "diversity",
        "predictions cover ever fewer values",
        "look for a loop in which the model is trained on what it chose itself; let some random choices in",
        ("entropy", "coverage"),
    ),
    Condition(
        "expectation",
        "rows broke an expectation",
        "`fs validate NAME` shows which rows; what was quarantined waits for you",
        ("failed", "share"),
    ),
    Condition(
        "freshness",
        "what is served is older than was promised",
        "`fs doctor`, then `fs holes`; start the stream or the schedule again, and `fs materialize`",
        ("seconds",),
    ),
    Condition(
        "latency",
        "answers take longer than the objective allows",
        "look at the stages in the dashboard: store, evaluation or encoding; then load, then limits",
        ("budget", "burn"),
    ),
    Condition(
        "availability",
        "more reads fail than the objective allows",
        "`fs doctor`; is the online store reachable, and is the server shedding load?",
        ("budget", "burn"),
    ),
    Condition(
        "not-judged",
        "something that is watched could not be judged",
        "the text says why: too few rows, nothing readable, or a source that is away",
    ),
    Condition(
        "retraining",
        "a retraining that was due did not run well",
        "`fs triggers` shows the reason and how it ended; run the command by hand",
        ("exit_status",),
    ),
    Condition(
        "delivery",
        "an alert could not be delivered for an hour",
        "`fs alerts list` shows what waits; check the channel's URL and the variables it is made of",
        ("waiting",),
    ),
    Condition(
        "watching",
        "monitors have not run when they should have",
        "is the scheduler, or `fs monitor watch`, still running? `fs monitor run` by hand says what is wrong",
        ("seconds",),
    ),
    Condition(
        "store-unreachable",
        "a server has stopped asking the online store, as it does not answer",
        "`fs doctor`; bring the store back: the servers ask again by themselves",
    ),
    Condition(
        "shedding",
        "a server turns requests away",
        "more workers or more servers; see which client sends more than before",
    ),
)

CONDITIONS = {c.name: c for c in _ALL}

__all__ = ["CONDITIONS", "Condition"]
