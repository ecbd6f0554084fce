"""`knowledge="arrived"`: what may be asked, what is written down of it, and large sets against plain SQL."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import featurestore as fs
from featurestore import FeatureStore
from featurestore.datasets.diff import diff
from featurestore.datasets.manifest import load
from featurestore.errors import NotFound, RequestError
from featurestore.evaluate import point_in_time
from featurestore.evaluate.known import Known
from featurestore.time import DAY, HOUR, MINUTE, SECOND, hours, minutes
from tests.test_cli import fs as run
from tests.test_cli import fs_json as run_json
