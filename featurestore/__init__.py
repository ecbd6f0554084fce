"""A feature store: one definition, the same value in a training set and in an online read.

Import names one by one, or `import featurestore as fs`, so that `fs.sum`, `fs.min` and `fs.max` shadow nothing. Names
are loaded when they are first used: importing the package itself costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featurestore import check as check
    from featurestore import expect as expect
    from featurestore import retrain as retrain
    from featurestore import scale as scale
    from featurestore.declare import BatchSource as BatchSource
    from featurestore.declare import Capture as Capture
    from featurestore.declare import Csv as Csv
    from featurestore.declare import Delta as Delta
    from featurestore.declare import Entity as Entity
    from featurestore.declare import FeatureService as FeatureService
    from featurestore.declare import FeatureView as FeatureView
    from featurestore.declare import Files as Files
    from featurestore.declare import Iceberg as Iceberg
    from featurestore.declare import Json as Json
    from featurestore.declare import Kafka as Kafka
    from featurestore.declare import Label as Label
    from featurestore.declare import OnDemand as OnDemand
    from featurestore.declare import Parquet as Parquet
    from featurestore.declare import RequestSource as RequestSource
    from featurestore.declare import Sql as Sql
    from featurestore.declare import StreamSource as StreamSource
    from featurestore.declare import count as count
    from featurestore.declare import count_distinct as count_distinct
    from featurestore.declare import first as first
    from featurestore.declare import first_k as first_k
    from featurestore.declare import histogram as histogram
    from featurestore.declare import kurtosis as kurtosis
    from featurestore.declare import largest_k as largest_k
    from featurestore.declare import last as last
    from featurestore.declare import last_k as last_k
    from featurestore.declare import latest as latest
    from featurestore.declare import max as max
    from featurestore.declare import max_by as max_by
    from featurestore.declare import mean as mean
    from featurestore.declare import min as min
    from featurestore.declare import min_by as min_by
    from featurestore.declare import most_frequent as most_frequent
    from featurestore.declare import python as python
    from featurestore.declare import quantile as quantile
    from featurestore.declare import skew as skew
    from featurestore.declare import smallest_k as smallest_k
    from featurestore.declare import stddev_pop as stddev_pop
    from featurestore.declare import stddev_samp as stddev_samp
    from featurestore.declare import sum as sum
    from featurestore.declare import var_pop as var_pop
    from featurestore.declare import var_samp as var_samp
    from featurestore.errors import FeatureStoreError as FeatureStoreError
    from featurestore.evaluate.python import Values as Values
    from featurestore.expr import as_of as as_of
    from featurestore.expr import coalesce as coalesce
    from featurestore.expr import col as col
    from featurestore.expr import concat as concat
    from featurestore.expr import cos as cos
    from featurestore.expr import exp as exp
    from featurestore.expr import greatest as greatest
    from featurestore.expr import hash_bucket as hash_bucket
    from featurestore.expr import least as least
    from featurestore.expr import lit as lit
    from featurestore.expr import ln as ln
    from featurestore.expr import log10 as log10
    from featurestore.expr import pow as pow
    from featurestore.expr import seconds_between as seconds_between
    from featurestore.expr import sin as sin
    from featurestore.expr import sqrt as sqrt
    from featurestore.expr import tanh as tanh
    from featurestore.expr import when as when
    from featurestore.policy import Alert as Alert
    from featurestore.policy import Monitor as Monitor
    from featurestore.policy import Trigger as Trigger
    from featurestore.status import Status as Status
    from featurestore.store import FeatureStore as FeatureStore
    from featurestore.time import days as days
    from featurestore.time import hours as hours
    from featurestore.time import lifetime as lifetime
    from featurestore.time import minutes as minutes
    from featurestore.time import seconds as seconds
    from featurestore.types import Bool as Bool
    from featurestore.types import Date as Date
    from featurestore.types import Decimal as Decimal
    from featurestore.types import Float32 as Float32
    from featurestore.types import Float64 as Float64
    from featurestore.types import Int32 as Int32
    from featurestore.types import Int64 as Int64
    from featurestore.types import List as List
    from featurestore.types import String as String
    from featurestore.types import Timestamp as Timestamp
    from featurestore.types import Vector as Vector

_HOMES = {
    "declare": (
        "BatchSource Capture Csv Delta Entity FeatureService FeatureView Files Iceberg Json Kafka Label OnDemand Parquet "
        "RequestSource Sql StreamSource "
        "count count_distinct first first_k histogram kurtosis largest_k last last_k latest max max_by mean "
        "min min_by most_frequent python quantile skew smallest_k stddev_pop stddev_samp sum var_pop var_samp"
    ),
    "errors": "FeatureStoreError",
    "evaluate.python": "Values",
    "expr": (
        "as_of coalesce col concat cos exp greatest hash_bucket least lit ln log10 pow seconds_between sin sqrt tanh when"
    ),
    "policy": "Alert Monitor Trigger",
    "status": "Status",
    "store": "FeatureStore",
    "time": "days hours lifetime minutes seconds",
    "types": "Bool Date Decimal Float32 Float64 Int32 Int64 List String Timestamp Vector",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}
_MODULES = ("expect", "scale", "check", "retrain")

__all__ = list(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"featurestore.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'featurestore' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"featurestore.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF, *_MODULES})
