"""The merged configuration → the normalised document that the compiler reads, and the way back from it to a file.

The document has every default filled in and one spelling for everything: lists where users may leave them out,
milliseconds, absolute paths.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import UNSET

from egress_gateway.config import DEFAULT_LISTENERS, Default, From, Listener, Resolver, Rule, Target, Timeouts, Users
from egress_gateway.errors import Path
from egress_gateway.files import resolve_path
from egress_gateway.merge import Merged, Origin
from egress_gateway.terms import Bandwidth, Budget, Budgets, Connections, PerSource, SourceBudget
from egress_gateway.units import Allowance, Duration, Rate, UnitError, parse_then, parse_wait
from egress_gateway.validate import BROKEN

VERSION = 1
_DNS_PORT = 53
# What is dialled where a name comes without a port.
_NAMED_PORTS = {"tls": 443, "postgres": 5432}
_SOURCE_KEYS = ("cidr", "user", "spiffe", "tlv")
# Sections of the language that are part of the document's settings.
_SETTINGS = ("resolver", "timeouts", "budgets", "cluster", "workers", "max_flows", "low_latency")
# Sources of one rule beyond which none are written out, as lists of several keys multiply: the compiler refuses more.
_MOST_SOURCES = 10_000


class Document:
    """`body` is the document; `origins` says which place of which file each part of it comes from."""

    def __init__(
        self,
        merged: Merged,
        tls: Mapping[int, dict[str, Any]] | None = None,
        cluster: dict[str, Any] | None = None,
    ) -> None:
        """`tls` is what the files of listeners say, by the listener's place among all; `cluster` with its files."""
        self._tls = tls or {}
        self._cluster = cluster
        self.origins: dict[Path, Origin] = {}
        self._merged = merged
        self.body: dict[str, Any] = {
            "v": VERSION,
            "settings": self._settings(),
            "default": msgspec.to_builtins(merged.section("default", Default())),
            "groups": {},
            "lists": {},
            "users": None,
            "links": {},
            "rules": [],
        }
        for path, origin in merged.origins.items():
            inside = ("settings",) if path[0] in _SETTINGS else ()
            self.origins[inside + path] = origin
        for name, items in merged.keyed("groups").items():
            origin = merged.origins["groups", name]
            self.body["groups"][name] = self._kept(items, ("groups", name), origin)
        for name, item in merged.keyed("lists").items():
            source, _ = merged.origins["lists", name]
            self.body["lists"][name] = {"file": resolve_path(item.file, source.file)}
        for name, link in merged.keyed("links").items():
            self.body["links"][name] = {"bandwidth": link.bandwidth.bits, "scope": link.scope}
        users = merged.section("users", Users()).file
        if users is not UNSET:
            self.body["users"] = {"file": resolve_path(users, merged.origins["users", "file"][0].file)}
        for rule, origin in merged.rules:
            here = ("rules", len(self.body["rules"]))
            self.origins[here] = origin
            self.body["rules"].append(self._rule(rule, here, origin))
            if rule.budget is not UNSET:
                # Where no file says where budgets are kept, the first of them is the place.
                self.origins.setdefault(("settings", "budgets", "store"), (origin[0], (*origin[1], "budget")))

    def encode(self) -> bytes:
        """The document as JSON."""
        return msgspec.json.encode(self.body)

    def trace(self, path: Path) -> Origin | None:
        """The place in a file that a path of the document comes from; None when no file says it."""
        for length in range(len(path), 0, -1):
            origin = self.origins.get(path[:length])
            if origin is not None:
                source, start = origin
                return source, start + tuple(_written(item) for item in path[length:])
        if path and isinstance(path[-1], str) and path[-1].endswith("_ms"):
            return self.trace((*path[:-1], path[-1].removesuffix("_ms")))
        # A built-in value that does not go with a given one: the section is the place. `settings` is none of a file.
        section = path if path[:-1] == ("settings",) else path[:-1]
        return next((self.origins[each] for each in self.origins if section and each[: len(section)] == section), None)

    def _kept(self, items: list[Any], here: Path, origin: Origin) -> list[Any]:
        """Items without the broken ones; the ones behind those have moved."""
        kept: list[Any] = []
        for index, item in enumerate(items):
            if item is not BROKEN:
                if index != len(kept):
                    self.origins[(*here, len(kept))] = (origin[0], (*origin[1], index))
                kept.append(item)
        return kept

    def _settings(self) -> dict[str, Any]:
        merged = self._merged
        listeners: list[dict[str, Any]] = []
        for listener, origin in merged.listeners:
            here = ("settings", "listeners", len(listeners))
            self.origins[here] = origin
            listeners.append(_listener(listener) | {"tls": self._tls.get(len(listeners))})
        workers, flows = merged.values.get(("workers",), "auto"), merged.values.get(("max_flows",), "auto")
        return {
            "workers": 0 if workers == "auto" else workers,
            "max_flows": 0 if flows == "auto" else flows,
            "low_latency": merged.values.get(("low_latency",), False),
            "listeners": listeners or [_listener(listener) for listener in DEFAULT_LISTENERS],
            "timeouts": _in_ms(merged.section("timeouts", Timeouts())),
            "resolver": self._resolver(),
            "budgets": self._budgets(),
            "cluster": self._cluster,
        }

    def _budgets(self) -> dict[str, Any]:
        budgets = self._merged.section("budgets", Budgets())
        given = self._merged.origins.get(("budgets", "store"))
        store = budgets.store if given is None else resolve_path(budgets.store, given[0].file)
        return {"store": store, "time_zone": budgets.time_zone}

    def _resolver(self) -> dict[str, Any]:
        resolver = self._merged.section("resolver", Resolver())
        hosts = {name: _several(value) for name, value in self._merged.keyed("resolver", "hosts").items()}
        return {
            **_in_ms(resolver),
            "servers": [_server(server) for server in _several(resolver.servers)],
            "hosts": hosts,
        }

    def _rule(self, rule: Rule, here: Path, origin: Origin) -> dict[str, Any]:
        source, start = origin
        return {
            "name": rule.name,
            "file": source.file,
            "line": source.locate(start).line,
            "from": self._from(rule.from_, here, origin),
            "evidence": _or_none(rule.evidence),
            "to": self._to(rule.to, here, origin),
            "anywhere": rule.anywhere,
            "deny": rule.deny,
            "mode": _or_none(rule.mode),
            "message": _or_none(rule.message),
            "on_deny": _or_none(rule.on_deny),
            "owner": _or_none(rule.owner),
            "why": _or_none(rule.why),
            "until": None if rule.until is UNSET else rule.until.unix_s,
            "connections": _connections(Connections() if rule.connections is UNSET else rule.connections),
            "bandwidth": _bandwidth(rule.bandwidth),
            "budget": None if rule.budget is UNSET else _budget(rule.budget),
            "dial": _or_none(rule.dial),
            "sni": rule.sni,
            "send_proxy": _or_none(rule.send_proxy),
        }

    def _from(self, given: Any, here: Path, origin: Origin) -> list[dict[str, str]]:
        sources: list[dict[str, str]] = []
        if given is UNSET:
            return sources
        source, start = origin
        for index, item in enumerate(given) if isinstance(given, list) else [(None, given)]:
            if not isinstance(item, From):
                continue
            path: Path = (*start, "from") if index is None else (*start, "from", index)
            choices = [_choices(path, key, getattr(item, key)) for key in _SOURCE_KEYS]
            for choice in itertools.product(*(choice for choice in choices if choice is not None)):
                if len(sources) > _MOST_SOURCES:
                    return sources
                at: Path = (*here, "from", len(sources))
                self.origins[at] = (source, choice[0][1] if len(choice) == 1 else path)
                self.origins.update({(*at, key): (source, place) for key, place, _ in choice})
                sources.append({key: value for key, _, value in choice})
        return sources

    def _to(self, given: Any, here: Path, origin: Origin) -> list[dict[str, Any]]:
        if given is UNSET:
            return []
        source, start = origin
        if not isinstance(given, list):
            self.origins[(*here, "to", 0)] = (source, (*start, "to"))
            given = [given]
        kept = self._kept(given, (*here, "to"), (source, (*start, "to")))
        return [
            {"name": item.name, "addresses": _several(item.addresses)}
            if isinstance(item, Target)
            else {"pattern": item}
            for item in kept
        ]


def _choices(path: Path, key: str, given: Any) -> list[tuple[str, Path, str]] | None:
    """(key, place, value) of each value that a key of `from` may have; None where the key is not there."""
    if given is UNSET:
        return None
    if not isinstance(given, list):
        return [(key, (*path, key), given)]
    return [(key, (*path, key, index), value) for index, value in enumerate(given) if value is not BROKEN]


def _written(item: str | int) -> str | int:
    return item.removesuffix("_ms") if isinstance(item, str) else item


def _listener(listener: Listener) -> dict[str, Any]:
    words = _several(listener.accept)
    port = listener.port if listener.port is not UNSET else _NAMED_PORTS.get(words[0]) if len(words) == 1 else None
    return {
        "name": listener.name,
        "bind": listener.bind,
        "accept": words,
        "port": port,
        "to": _or_none(listener.to),
        "proxy_protocol": listener.proxy_protocol,
        "proxy_trusted": [] if listener.proxy_trusted is UNSET else _several(listener.proxy_trusted),
        "proxy_tlv": _or_none(listener.proxy_tlv),
        "send_proxy": listener.send_proxy,
        "login": listener.login,
    }


def _bounds(given: Connections | PerSource) -> dict[str, Any]:
    return {key: _or_none(getattr(given, key)) for key in ("max", "new_per_second", "burst")}


def _connections(given: Connections) -> dict[str, Any]:
    """What cannot be read of `when_full` has been reported."""
    each = None if given.per_source is UNSET else _bounds(given.per_source)
    try:
        wait_ms = parse_wait(given.when_full)
    except UnitError:
        wait_ms = 0
    # The compiler takes 32 bits, and says what is too long of those.
    return {**_bounds(given), "per_source": each, "wait_ms": min(wait_ms, 2**32 - 1)}


def _bandwidth(given: Any) -> dict[str, Any] | None:
    """Rates in bits per second. One that cannot be read has been reported: it is none here."""
    if given is UNSET:
        return None
    if isinstance(given, str):
        try:
            given = Bandwidth(max=Rate.parse(given))
        except UnitError:
            return None
    values = msgspec.structs.asdict(given)
    return {key: value.bits if isinstance(value, Rate) else _or_none(value) for key, value in values.items()}


def _budget(given: Budget) -> dict[str, Any]:
    """What cannot be read of `then` has been reported."""
    try:
        then = parse_then(given.then)
    except UnitError:
        then = "deny"
    return {
        "all": _allowances(given),
        "each": _allowances(SourceBudget() if given.per_source is UNSET else given.per_source),
        "then": {"slow": then.bits} if isinstance(then, Rate) else then,
    }


def _allowances(given: Budget | SourceBudget) -> dict[str, Any]:
    ways = {"up": given.up, "down": given.down}
    return {
        way: {"bytes": one.bytes, "per": one.per} if isinstance(one, Allowance) else None for way, one in ways.items()
    }


def _in_ms(section: Resolver | Timeouts) -> dict[str, Any]:
    values = msgspec.structs.asdict(section)
    return {
        **{key: value for key, value in values.items() if not isinstance(value, Duration)},
        **{f"{key}_ms": value.ms for key, value in values.items() if isinstance(value, Duration)},
    }


def _several(value: Any, *, keep: bool = False) -> list[Any]:
    if isinstance(value, list):
        return value if keep else [item for item in value if item is not BROKEN]
    return [value]


def _or_none(value: Any) -> Any:
    return None if value is UNSET else value


def _server(text: str) -> str:
    try:
        address = ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return text
    return f"[{address}]:{_DNS_PORT}" if address.version == 6 else f"{address}:{_DNS_PORT}"
