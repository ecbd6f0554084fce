"""What was served, kept: rows as they went out, by service and by the fingerprint of what they mean; what came back of them."""

from __future__ import annotations

from featurestore.capture.log import CaptureLog, Cursor, Rows
from featurestore.capture.schema import CapturedSchema

__all__ = ["CaptureLog", "CapturedSchema", "Cursor", "Rows"]
