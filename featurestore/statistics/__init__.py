"""What values look like: counts, moments, ranks, distinct and frequent values, by partition of time; all of it merges."""

from featurestore.statistics.feature import FeatureStatistics
from featurestore.statistics.partitions import Decayed, Statistics
from featurestore.statistics.summary import MOMENTS, Keep, Summary

__all__ = ["MOMENTS", "Decayed", "FeatureStatistics", "Keep", "Statistics", "Summary"]
