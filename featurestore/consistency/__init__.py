"""Whether what was served is what a training set has, why not where it is not, and how far behind the events it was."""

from featurestore.consistency.lags import FittedLag, fitted_lags
from featurestore.consistency.records import CAUSES, Cause, Example, FeatureConsistency, LoggedReport
from featurestore.consistency.run import Checked, verify_logged
from featurestore.consistency.why import Counted, Made, Value, Why, why

__all__ = [
    "CAUSES",
    "Cause",
    "Checked",
    "Counted",
    "Example",
    "FeatureConsistency",
    "FittedLag",
    "LoggedReport",
    "Made",
    "Value",
    "Why",
    "fitted_lags",
    "verify_logged",
    "why",
]
