"""Aggregates: an open set with one entry per member, over a closed set of reductions."""

from featurestore.aggregates import entries as _entries  # noqa: F401  registers the members
from featurestore.aggregates.record import AGGREGATES, Aggregate, Finish, Part, Ratio, Root, Variance
from featurestore.aggregates.reductions import (
    Count,
    Field,
    First,
    Last,
    Maximum,
    Minimum,
    Moments,
    Reduction,
    Sum,
    bind,
    fields,
    has_null_bit,
    ordered,
)

__all__ = [
    "AGGREGATES",
    "Aggregate",
    "Count",
    "Field",
    "Finish",
    "First",
    "Last",
    "Maximum",
    "Minimum",
    "Moments",
    "Part",
    "Ratio",
    "Reduction",
    "Root",
    "Sum",
    "Variance",
    "bind",
    "fields",
    "has_null_bit",
    "ordered",
]
