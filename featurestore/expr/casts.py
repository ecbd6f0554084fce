"""Which type can be cast to which, and the strict subset of text that a cast reads."""

from __future__ import annotations

from featurestore.types import Bool, Date, DecimalType, DType, String, Timestamp, is_integer, is_numeric

# Both Python's `re` (fullmatch) and RE2 read these alike; anything else is NULL, so that no engine's own
# generosity (" 1", "1e3", "0x1", "1_000", "24:00:00", "inf") can make two engines differ.
INTEGER_TEXT = "[+-]?[0-9]{1,30}"
DOUBLE_TEXT = r"[+-]?[0-9]{1,400}(?:\.[0-9]{1,400})?(?:[eE][+-]?[0-9]{1,9})?"
_YEAR = "(?:000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})"
DATE_TEXT = f"{_YEAR}-[0-9]{{2}}-[0-9]{{2}}"
TIMESTAMP_TEXT = rf"{DATE_TEXT}[ T](?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{{1,6}})?Z?"


def decimal_text_pattern(scale: int) -> str:
    """Text that a Decimal of this scale holds exactly: more digits after the point are no match."""
    fraction = rf"(?:\.[0-9]{{1,{scale}}})?" if scale else ""
    return f"[+-]?[0-9]{{1,18}}{fraction}"


def cast_problem(source: DType, target: DType) -> tuple[str, str] | None:
    """Why a value of `source` cannot be cast to `target`, and what would work; None where it can."""
    if source == target or _castable(source, target):
        return None
    if target == String:
        why = f"{source!r} has no text that every engine writes alike"
        return why, "Int64, Int32, Decimal and Bool have: cast to one of these first"
    if target == Bool:
        return f"{source!r} is no truth", "compare instead, as in x != 0"
    if Timestamp in (source, target) and (is_numeric(source) or is_numeric(target)):
        return f"{source!r} cannot become {target!r}", "use .epoch_seconds() or seconds_between(a, b)"
    return (
        f"{source!r} cannot become {target!r}",
        "numbers become numbers, text what it spells, Timestamp Date",
    )


def _castable(source: DType, target: DType) -> bool:
    if is_numeric(source) and is_numeric(target):
        return True
    if source == Bool:
        return target == String or (is_numeric(target) and not isinstance(target, DecimalType))
    if source == String:
        return is_numeric(target) or target in (Bool, Timestamp, Date)
    if target == String:
        return is_integer(source) or isinstance(source, DecimalType)
    return {source, target} == {Timestamp, Date}
