"""Certificates in the registry: kept with the meaning they are about, and asked for before something is applied."""

from __future__ import annotations

from featurestore.errors import Unverified
from featurestore.ir import Plan, service_fingerprint, view_fingerprint
from featurestore.registry import CertificateEntry, Registry
from featurestore.verify.engines import ENGINES
from featurestore.verify.records import Certificate


def keep(registry: Registry, certificate: Certificate, who: str) -> None:
    """Keeps every verdict of a certificate, but for what says too little: a pass on some of the engines only, or nothing checked.

    An engine that is to be asked for may be left out.
    """
    whole = set(certificate.engines) >= {e.name for e in ENGINES.values() if not e.asked_for}
    registry.certify(
        [
            CertificateEntry(
                v.fingerprint, v.view, certificate.made_at, who, v.cells, v.outcome, certificate.details(v)
            )
            for v in certificate.verdicts
            if v.outcome not in ("certified", "unchecked") or (whole and v.outcome == "certified")
        ]
    )


def must_be_verified(registry: Registry, plan: Plan) -> None:
    """Raises Unverified when the newest verification of a meaning is no pass, or there is none.

    Of every view, and of every service that computes on demand.
    """
    views = {v.name: v for v in plan.views}
    meanings = {("view", v.name): view_fingerprint(v) for v in plan.views} | {
        ("service", s.name): service_fingerprint(s, views) for s in plan.services if s.on_demand
    }
    lacking = {}
    for (kind, name), fingerprint in meanings.items():
        found = registry.certificate(fingerprint)
        if found is None:
            lacking[name] = (kind, "was never verified as it is now")
        elif not found.passed:
            lacking[name] = (kind, _WHY.get(found.outcome, f"ended as '{found.outcome}'"))
    if lacking:
        raise Unverified(lacking)


_WHY = {"disagreement": "has engines that disagree", "empty": "had no event to verify it on"}
