"""Policy files → one normalised document, or every mistake in them at once."""

from __future__ import annotations

import hashlib
import ipaddress
import os
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from msgspec import UNSET

from egress_gateway.certificates import Certificates
from egress_gateway.config import Admin, Config, Default, ListenerTls, Log, Rule, Users
from egress_gateway.document import Document
from egress_gateway.errors import ConfigError, ConfigErrors, Path, quote
from egress_gateway.files import digest_of, read_all, reason, resolve_path
from egress_gateway.merge import Merged, Origin
from egress_gateway.positions import Source, parse
from egress_gateway.store import Store
from egress_gateway.terms import Cluster, Connections, PerSource, SourceBudget
from egress_gateway.units import Rate, UnitError, parse_then, parse_wait
from egress_gateway.validate import BROKEN, Validator, nearest

_LOG_WORDS = ("stdout", "stderr", "off")
# The keys of sections of a rule that bound something: one of them has to be there.
_BOUNDS: dict[Path, str] = {
    ("connections",): "`max`, `new_per_second` or `per_source`",
    ("connections", "per_source"): "`max` or `new_per_second`",
    ("budget", "per_source"): "`up` or `down`",
}


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration without a mistake that can be seen before it is compiled."""

    #: For `Policy.compile`.
    document: bytes
    #: Address and port of the admin listener; None = off.
    admin: str | None
    #: `stdout`, `stderr`, `off`, or an absolute path.
    log: str
    #: Every file that was read, list files included, as absolute paths.
    files: tuple[str, ...]
    #: Of the names and contents of those files.
    hash: str


class Draft:
    """What could be read of a configuration, with the mistakes found so far."""

    def __init__(self, paths: Iterable[str | os.PathLike[str]]) -> None:
        self.errors: list[ConfigError] = []
        #: Places whose values are already reported, per file.
        self.reported: dict[str, set[Path]] = {}
        self._admin: str | None = None
        self._tls: dict[int, dict[str, Any]] = {}
        self._cluster: dict[str, Any] | None = None
        self._log = "stdout"
        raw, unreadable = read_all(paths)
        self.errors += unreadable
        #: Something is missing from the document as a whole: what refers to it cannot be judged.
        self.partial = bool(unreadable)
        self._hash = hashlib.blake2b(digest_size=16)
        self._files = [file.path for file in raw]
        merged = Merged()
        for file in raw:
            self._mix(file.path, file.data)
            source, wrong = parse(file.shown, file.data)
            self.errors += wrong
            if source.root is None:
                self.partial = True
                continue
            config = self._validate(source)
            if config is not BROKEN:
                merged.add(source, config)
            else:
                self.partial = True
        self.errors += merged.errors
        self._check(merged)
        self.document = Document(merged, self._tls, self._cluster)

    def loaded(self) -> Loaded:
        """The configuration; call it only when there are no errors."""
        return Loaded(
            document=self.document.encode(),
            admin=self._admin,
            log=self._log,
            files=tuple(self._files),
            hash=self._hash.hexdigest(),
        )

    def report(self, origin: Origin, code: str, message: str, fix: str) -> None:
        """Adds a mistake at a place of a file."""
        source, path = origin
        self.reported.setdefault(source.file, set()).add(path)
        self.errors.append(source.error(path, code, message, fix))

    def sorted_errors(self) -> list[ConfigError]:
        """In the order in which the files were given, then by line."""
        order = {file: index for index, file in enumerate(dict.fromkeys(error.file for error in self.errors))}
        return sorted(self.errors, key=lambda error: (order[error.file], error.line, error.column))

    def _validate(self, source: Source) -> Config:
        assert source.root is not None
        validator = Validator(source)
        value = source.root.value
        config = validator.read(Config, value)
        if config is BROKEN and isinstance(value, dict):
            # Without a right `egress:` line the rest is read all the same, for its own mistakes.
            config = Validator(source).read(Config, {**value, "egress": "v1"})
        self.errors += validator.errors
        self.reported.setdefault(source.file, set()).update(validator.paths)
        return config  # type: ignore[no-any-return]

    def _mix(self, name: str, content: bytes) -> None:
        for part in (os.fsencode(name), content):
            self._hash.update(len(part).to_bytes(8, "little"))
            self._hash.update(part)

    def _check(self, merged: Merged) -> None:
        for index, (listener, origin) in enumerate(merged.listeners):
            if isinstance(listener.tls, ListenerTls):
                self._read_tls(index, listener.tls, (origin[0], (*origin[1], "tls")))
            if listener.port is not UNSET and not any(word in listener.accept for word in ("tls", "postgres")):
                message = "only a tls or postgres listener takes `port`; elsewhere the destination brings its own"
                self.report((origin[0], (*origin[1], "port")), "unused_port", message, "remove `port`")
        for rule, origin in merged.rules:
            self._check_terms(rule, origin)
        for name, item in merged.keyed("lists").items():
            source, path = merged.origins["lists", name]
            self._check_list(resolve_path(item.file, source.file), (source, (*path, "file")))
        users = merged.section("users", Users()).file
        if users is not UNSET:
            source, path = merged.origins["users", "file"]
            self._check_list(resolve_path(users, source.file), (source, path), "the users file")
        self._read_cluster(merged)
        if merged.section("default", Default()).no_name == "allow":
            message = "`no_name: allow` is not in this version: without a name a tls listener has nowhere to go"
            self.report(merged.origins["default", "no_name"], "not_yet", message, "remove `no_name`, or write deny")
        self._admin = self._check_admin(merged.section("admin", Admin()).bind, merged)
        self._log = self._check_log(merged.section("log", Log()).decisions, merged)

    def _check_terms(self, rule: Rule, origin: Origin) -> None:
        """What is written in a text of its own, and sections in which nothing is said."""
        source, path = origin
        connections, budget = rule.connections, rule.budget
        texts: list[tuple[str, Callable[[str], object], Path]] = []
        empty: list[tuple[bool, str, Path]] = []
        if connections is not UNSET:
            texts.append((connections.when_full, parse_wait, ("connections", "when_full")))
            empty.append((connections == Connections(), "no connections are bounded", ("connections",)))
            if connections.per_source is not UNSET:
                is_empty = connections.per_source == PerSource()
                empty.append((is_empty, "the connections of no source are bounded", ("connections", "per_source")))
        if budget is not UNSET:
            texts.append((budget.then, parse_then, ("budget", "then")))
            is_empty = budget.per_source == SourceBudget()
            empty.append((is_empty, "the bytes of no source are bounded", ("budget", "per_source")))
        if isinstance(rule.bandwidth, str):
            texts.append((rule.bandwidth, Rate.parse, ("bandwidth",)))
        for text, parse_text, key in texts:
            try:
                parse_text(text)
            except UnitError as error:
                self.report((source, (*path, *key)), "bad_value", str(error), error.fix)
        known = self.reported.get(source.file, set())
        for is_empty, message, key in empty:
            place = (*path, *key)
            # What was there may have been reported, and is not there any more.
            if is_empty and not any(each[: len(place)] == place for each in known):
                fix = f"add {_BOUNDS[key]}, or remove `{key[-1]}`"
                self.report((source, place), "bounds_nothing", message, fix)

    def _read_tls(self, index: int, tls: ListenerTls, origin: Origin) -> None:
        source, place = origin
        certificates = Certificates(tls, source.file)
        for path, data in certificates.files:
            self._mix(path, data)
            if path not in self._files:
                self._files.append(path)
        for key, code, message, fix in certificates.troubles:
            self.report((source, (*place, key)), code, message, fix)
        if not certificates.troubles:
            self._tls[index] = certificates.document()

    def _read_cluster(self, merged: Merged) -> None:
        origins = {path[1]: origin for path, origin in merged.origins.items() if path[0] == "cluster"}
        if not origins:
            return
        store = Store(
            merged.section("cluster", Cluster()), {str(key): source.file for key, (source, _) in origins.items()}
        )
        for path, data in store.files:
            self._mix(path, data)
            if path not in self._files:
                self._files.append(path)
        for key, code, message, fix in store.troubles:
            # A key that nobody has written is missing where the others stand.
            source, place = origins.get(key) or next(iter(origins.values()))
            self.report((source, place if key else place[:1]), code, message, fix)
        self._cluster = store.document()
        self.partial |= self._cluster is None

    def _check_list(self, path: str, origin: Origin, what: str = "the list") -> None:
        try:
            self._mix(path, digest_of(path))
            if path not in self._files:
                self._files.append(path)
        except OSError as error:
            fix = f"a relative path starts at the policy file; looked for {path}"
            self.report(origin, "unreadable_list", reason(error).replace("the file", what), fix)

    def _check_admin(self, bind: str, merged: Merged) -> str | None:
        if bind == "off":
            return None
        host, _, port = bind.rpartition(":")
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host if ":" not in host else ""
        try:
            ipaddress.ip_address(bare)
            if not (port.isascii() and port.isdigit() and int(port) <= 65535):
                raise ValueError
        except ValueError:
            message = f"{quote(bind)} is not an address with a port"
            self.report(
                merged.origins["admin", "bind"], "bad_bind", message, 'write "127.0.0.1:9900" or "[::1]:9900", or off'
            )
        return bind

    def _check_log(self, decisions: str, merged: Merged) -> str:
        if decisions in _LOG_WORDS:
            return decisions
        origin = merged.origins["log", "decisions"]
        if "/" in decisions:
            return resolve_path(decisions, origin[0].file)
        near = nearest(decisions, _LOG_WORDS)
        fix = f"did you mean `{near}`?" if near else f"write stdout, stderr, off, or a path such as ./{decisions}"
        self.report(origin, "bad_value", f"{quote(decisions)} is neither stdout, stderr, off nor a path with a /", fix)
        return "stdout"


def load(paths: Iterable[str | os.PathLike[str]]) -> Loaded:
    """Reads files and directories as one configuration.

    Raises:
        ConfigErrors: with every mistake that can be seen before the policy is compiled.
    """
    draft = Draft(paths)
    if draft.errors:
        raise ConfigErrors(draft.sorted_errors())
    return draft.loaded()
