"""What was applied: revisions of the plan, versions of services, who did what; in SQLite or PostgreSQL."""

from featurestore.registry.connection import masked
from featurestore.registry.records import (
    AuditEntry,
    CertificateEntry,
    Revision,
    RevisionSummary,
    ServiceVersion,
    version_of,
)
from featurestore.registry.registry import SCHEMA_VERSION, Registry, open_registry

__all__ = [
    "SCHEMA_VERSION",
    "AuditEntry",
    "CertificateEntry",
    "Registry",
    "Revision",
    "RevisionSummary",
    "ServiceVersion",
    "masked",
    "open_registry",
    "version_of",
]
