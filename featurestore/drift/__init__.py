"""Whether rows still look like those a model was trained on: tests on samples and on kept statistics, each with a size."""

from featurestore.baselines import Baseline, parse_baseline
from featurestore.drift.compare import compare, compare_slices, schema_changes
from featurestore.drift.rows import compare_rows
from featurestore.drift.verdicts import DriftReport, FeatureDrift, Limits, Test
from featurestore.drift.windows import Chosen, choose

__all__ = [
    "Baseline",
    "Chosen",
    "DriftReport",
    "FeatureDrift",
    "Limits",
    "Test",
    "choose",
    "compare",
    "compare_rows",
    "compare_slices",
    "parse_baseline",
    "schema_changes",
]
