"""Lineage of columns: from a column of a source to features, from features to what services give out, and back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from featurestore.errors import NotFound
from featurestore.expr import columns_of
from featurestore.ir import Feature, Label, OnDemand, Plan, Service, View

Kind = Literal["source column", "feature", "request column", "service column", "label"]
Role = Literal[
    "value",
    "condition",
    "filter",
    "key",
    "time",
    "order",
    "identity",
    "feature",
    "request",
    "python",
    "label",
]
"""What one column is to another: `condition` and `filter` decide which events count, `order` which of several is the newest,
`identity` which are copies of one event; `feature` and `request` are what a service's column is made of, `python` by a function
that no other engine can compute."""


@dataclass(frozen=True, slots=True)
class Node:
    """One column. `owner` is the source, view or service it belongs to; `where` the place of a source."""

    kind: Kind
    owner: str
    name: str
    where: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.owner}{':' if self.kind == 'feature' else '.'}{self.name}"


@dataclass(frozen=True, slots=True)
class Edge:
    """`into` is made of `of`, in these roles."""

    of: Node
    into: Node
    roles: tuple[Role, ...]


@dataclass(frozen=True)
class Lineage:
    """All edges of a plan."""

    edges: tuple[Edge, ...]

    def nodes(self) -> list[Node]:
        """Every column that something is made of, or that is made of something."""
        return list(dict.fromkeys(n for e in self.edges for n in (e.of, e.into)))

    def found(self, name: str) -> list[Node]:
        """The columns called `name`, or all columns of a source, view or service of that name. Raises NotFound.

        A column is `VIEW:FEATURE`, `SOURCE.COLUMN`, `SERVICE.COLUMN`, or the column alone wherever there is one.
        """
        nodes = self.nodes()
        found = [n for n in nodes if name == str(n)] or [n for n in nodes if name == n.owner]
        found = found or [n for n in nodes if name == n.name]
        if not found:
            raise NotFound(
                "source, view, label, service or column of one",
                name,
                {x for n in nodes for x in (n.owner, n.name)},
            )
        return found

    def tree(self, node: Node, direction: Literal["up", "down"]) -> list[dict[str, Any]]:
        """What a node is made of, or what is made of it: plain values, each with its own `from` or `to`."""
        name = "from" if direction == "up" else "to"
        out = []
        for edge in self.edges:
            here, there = (edge.into, edge.of) if direction == "up" else (edge.of, edge.into)
            if here == node:
                out.append({**plain(there), "roles": list(edge.roles), name: self.tree(there, direction)})
        return out


def plain(node: Node) -> dict[str, Any]:
    """A node as plain values."""
    where = {"where": node.where} if node.where else {}
    return {"kind": node.kind, "owner": node.owner, "name": node.name, **where}


def lineage(plan: Plan) -> Lineage:
    """The lineage of everything in a plan."""
    edges: list[Edge] = []
    for view in plan.views:
        for feature in view.features:
            edges += _feature_edges(view, feature)
    for label in plan.labels:
        edges += _label_edges(label)
    for service in plan.services:
        edges += _service_edges(service)
    return Lineage(tuple(edges))


def _label_edges(label: Label) -> Iterator[Edge]:
    """The columns of its source that a label is made of, whichever of its aggregates takes them."""
    into = Node("label", label.name, "value")
    roles: dict[Node, dict[Role, None]] = {}
    for feature in label.view.features:
        for edge in _feature_edges(label.view, feature):
            roles.setdefault(edge.of, {}).update(dict.fromkeys(edge.roles))
    for column, said in roles.items():
        yield Edge(column, into, tuple(said))


def _feature_edges(view: View, feature: Feature) -> Iterator[Edge]:
    source = view.source
    roles: dict[str, list[Role]] = {}

    def reads(columns: Iterator[str] | frozenset[str] | tuple[str, ...], role: Role) -> None:
        for column in sorted(columns):
            if role not in roles.setdefault(column, []):
                roles[column].append(role)

    for node in feature.inputs:
        reads(columns_of(node), "value")
    if feature.where is not None:
        reads(columns_of(feature.where), "condition")
    if view.filter is not None:
        reads(columns_of(view.filter), "filter")
    for key in view.keys:
        reads(columns_of(key.value), "key")
    if source.event_time is not None:
        reads((source.event_time,), "time")
    if source.event_id is not None:
        reads((source.event_id,), "identity")
    reads(source.tiebreak, "order")
    into = Node("feature", view.name, feature.name)
    for column, said in roles.items():
        yield Edge(Node("source column", source.name, column, source.location.path), into, tuple(said))


def _service_edges(service: Service) -> Iterator[Edge]:
    hidden: dict[str, Node] = {}
    for read in service.reads:
        feature = Node("feature", read.view, read.feature)
        if read.hidden:
            hidden[read.output] = feature
        else:
            yield Edge(feature, Node("service column", service.name, read.output), ("feature",))
    for name in service.labels:
        yield Edge(Node("label", name, "value"), Node("service column", service.name, name), ("label",))
    for computed in service.on_demand:
        yield from _on_demand_edges(service, computed, hidden)


def _on_demand_edges(service: Service, computed: OnDemand, hidden: dict[str, Node]) -> Iterator[Edge]:
    into = Node("service column", service.name, computed.name)
    request = dict(service.request)
    by: tuple[Role, ...] = ("python",) if computed.is_python else ()
    for column in sorted(computed.columns):
        if column in hidden:
            yield Edge(hidden[column], into, ("feature", *by))
        elif column in request:
            yield Edge(Node("request column", f"{service.name} request", column), into, ("request", *by))
