"""The control plane: a child of the data plane that owns files and people, and may die at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
import time
from importlib.metadata import version
from typing import Any, Final

import msgspec

from egress_core import _dataplane
from egress_core.live import Live
from egress_core.ring import Reader, Segment
from egress_gateway import report
from egress_gateway.admin import sockets
from egress_gateway.admin.http import Admin
from egress_gateway.channel import Channel, ChannelClosedError
from egress_gateway.check import Checked, check
from egress_gateway.errors import ConfigError, ConfigErrors
from egress_gateway.messages import Draining, Event, Hello, Memo, ProtocolError, Reload, Reopen
from egress_gateway.outcome import Outcome
from egress_gateway.reload import Reloader
from egress_gateway.telemetry.collector import Collector
from egress_gateway.telemetry.log import DecisionLog
from egress_gateway.telemetry.metrics import ControlState, Metrics
from egress_gateway.watch import Watcher

#: sysexits.h EX_CONFIG: the policy was broken when the gateway was started. The data plane ends with it too.
EXIT_CONFIG: Final = 78
#: sysexits.h EX_SOFTWARE: the two processes do not understand each other.
EXIT_PROTOCOL: Final = 70

_log = logging.getLogger(__name__)


class Service:
    """One control process, from its hello to its end."""

    def __init__(self, channel: Channel, hello: Hello, telemetry: int) -> None:
        vocabulary = _dataplane.vocabulary()
        segment = Segment(telemetry)
        os.close(telemetry)
        self._channel = channel
        self._hello = hello
        self._reader = Reader(segment, vocabulary)
        self._live = Live(segment, vocabulary)
        self._segment = segment
        self._started = time.time()
        self._draining = False
        self._policy: tuple[int, _dataplane.Policy] | None = None
        self._files: list[str] = []
        self._load_began = 0.0
        self._memo = hello.memo
        self._tasks: set[asyncio.Task[Any]] = set()
        self._collector: Collector | None = None
        self._decisions: DecisionLog | None = None
        self._metrics: Metrics | None = None
        self._admin = Admin(self)
        self._admin_bound: str | None = None
        self._control: tuple[str, tuple[int, int]] | None = None
        self._state = ControlState(
            version=version("egress-gateway"), profile=_dataplane.build_profile(), generation=hello.generation
        )
        self._watcher = Watcher(list(hello.options.config), self._files_changed)
        self._reloader: Reloader[Checked] = Reloader(
            channel, lambda: check(hello.options.config), self, generation=hello.generation, digest=hello.digest
        )

    async def run(self) -> int:
        """Until the data plane is gone; gives the exit code."""
        watching: asyncio.Task[None] | None = None
        try:
            if self._memo is not None:
                # Started again under a data plane that serves: be seen first, then look what the files say by now.
                await self._open_doors(self._memo)
            outcome = await self._reloader.request("start")
            if not self._reloader.generation:
                return EXIT_CONFIG if outcome.result == "refused" else EXIT_PROTOCOL
            watching = asyncio.create_task(self._watcher.run(), name="watch")
            await self._channel.closed.wait()
        finally:
            if watching is not None:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
            await self._close_doors()
        if self._channel.error is not None:
            _log.error("%s", self._channel.error)
            return EXIT_PROTOCOL
        return 0

    async def _open_doors(self, memo: Memo) -> None:
        """Opens the decision log, the control socket and the admin port, and begins to collect. ConfigErrors when one
        of them cannot be had at the start of the gateway; later each is left out with a line on the log, as the others
        and the traffic matter more."""
        options = self._hello.options
        first = self._hello.generation == 0
        errors = []

        def failed(key: str, message: str, fix: str) -> None:
            if first:
                errors.append(ConfigError(file="-", code=key, message=message, fix=fix))
            else:
                _log.error("%s; %s", message, fix)

        target = options.log or memo.log
        try:
            self._decisions = DecisionLog(self._reader, target, patient=not first)
        except OSError as error:
            failed("log", f"the decision log {target} cannot be opened: {error.strerror}", "change log.decisions")
        if (path := options.control_socket) is not None:
            try:
                listening = sockets.bind_unix(path)
                self._control = (path, sockets.identity(path))
                await self._admin.serve(listening, control=True)
            except sockets.SocketError as error:
                failed("control", str(error), error.fix)
        if (address := options.admin or memo.admin) is not None:
            try:
                sock = sockets.bind_tcp(address)
                host, port = sock.getsockname()[:2]
                self._admin_bound = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
                await self._admin.serve(sock, control=False)
            except sockets.SocketError as error:
                failed("admin", str(error), error.fix)
        if errors:
            raise ConfigErrors(errors)
        if self._admin_bound is not None and first:
            _log.info("metrics and health are at http://%s", self._admin_bound)
        assert self._decisions is not None
        self._metrics = Metrics(
            self._segment, self._reader, self._live, self._decisions, _dataplane.counters(), self._state
        )
        self._collector = Collector(self._reader, self._decisions)
        self._collector.start()

    async def _close_doors(self) -> None:
        """Takes in and writes out what is left, and leaves no socket behind."""
        if self._collector is not None:
            self._collector.stop()
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._admin.stop(), 2)
        if self._control is not None:
            sockets.remove_unix(*self._control)

    # ---- hooks of the reloader -----------------------------------------------------------------------------------

    async def before_load(self) -> None:
        """The contents as they are before they are read: a change during the load is then seen as one."""
        self._load_began = time.time()
        self._watcher.baseline = await self._watcher.look()

    async def before_install(self, candidate: Checked) -> None:
        """At the first start: what the policy says of log and pages must be possible before anything is served. Later:
        what this process cannot change while it runs is refused, by name."""
        if self._memo is None:
            if self._metrics is None:
                await self._open_doors(candidate.memo())
            return
        new, errors = candidate.memo(), []
        for key, before, after, override in (
            ("admin.bind", self._memo.admin, new.admin, self._hello.options.admin),
            ("log.decisions", self._memo.log, new.log, self._hello.options.log),
        ):
            if before != after and override is None:
                message = f"`{key}` cannot change while the gateway runs ({before or 'off'} to {after or 'off'})"
                fix = "put it back, or restart the gateway (it drains first)"
                errors.append(candidate.error(tuple(key.split(".")), "needs_restart", message, fix))
        if errors:
            raise ConfigErrors(errors)

    def after(self, outcome: Outcome, candidate: Checked | None) -> None:
        self._state.config_error = not outcome.ok
        self._state.generation = outcome.generation
        self._state.reloads[outcome.result] += 1
        if candidate is not None:
            # Also of a refused one: the list file that made it refused is to be watched.
            self._files = list(candidate.loaded.files)
            self._watcher.set_paths([*self._hello.options.config, *self._files], self._load_began)
        if outcome.ok:
            self._state.last_success = outcome.time
            if candidate is not None:
                self._policy = (outcome.generation, candidate.policy)
                self._memo = candidate.memo()

    async def _files_changed(self) -> None:
        await self._reloader.request("file")

    def on_event(self, event: Event) -> None:
        """What the data plane says unasked."""
        match event:
            case Reload():
                task = asyncio.create_task(self._reloader.request("signal"))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case Reopen():
                if self._decisions is not None:
                    self._decisions.reopen()
                _log.info("logs are opened anew")
            case Draining():
                self._draining = True

    # ---- what the admin application shows ------------------------------------------------------------------------

    async def metrics(self) -> str:
        if self._metrics is None:
            return ""
        told: report.Report | None = None
        try:
            told = report.decode(await self._channel.report())
        except (TimeoutError, ChannelClosedError) as error:
            # The rest is in shared memory, and whoever scrapes is to see that the data plane is slow.
            _log.warning("metrics without classes: %s", error)
        return self._metrics.render(told)

    async def report(self) -> bytes:
        return await self._channel.report()

    def ready(self) -> str | None:
        if self._draining:
            return "draining"
        return None if self._reloader.generation else "no policy is in force"

    async def reload(self, cause: str) -> Outcome:
        return await self._reloader.request(cause)

    async def status(self) -> dict[str, Any]:
        data_plane = await self._channel.status()
        last = self._reloader.last
        fold, log = self._reader.backlog()
        return {
            "generation": data_plane.generation,
            "digest": data_plane.digest,
            "draining": data_plane.draining,
            "uptime_seconds": data_plane.uptime_ms / 1000,
            "pid": self._hello.pid,
            "control": {
                "pid": os.getpid(),
                "restarts": data_plane.restarts,
                "uptime_seconds": round(time.time() - self._started, 3),
            },
            "config": list(self._hello.options.config),
            "files": self._files,
            "config_error": self._reloader.config_error,
            "last_reload": msgspec.to_builtins(last) if last is not None else None,
            "workers": msgspec.to_builtins(data_plane.workers),
            "listeners": msgspec.to_builtins(data_plane.listeners),
            "more_workers": data_plane.more_workers,
            "more_listeners": data_plane.more_listeners,
            "cluster": msgspec.to_builtins(data_plane.cluster),
            "records": {
                "dropped": sum(self._reader.dropped()),
                "waiting": max(fold, log),
                "log_failures": self._decisions.failures if self._decisions is not None else 0,
            },
            "budgets": msgspec.to_builtins(data_plane.budgets),
            "admin": self._admin_bound,
            "version": self._state.version,
            "build": self._state.profile,
        }

    async def flows(self, limit: int) -> list[dict[str, Any]]:
        listeners = [listener.name for listener in (await self._channel.status()).listeners]
        rows = self._live.flows(limit)
        for row in rows:
            row["rule"] = self._rule_name(row["rule"], row["generation"])
            index = row["listener"]
            row["listener"] = listeners[index] if index < len(listeners) else f"#{index}"
        return rows

    def _rule_name(self, rule: int | None, generation: int) -> str | None:
        """Slots hold numbers, which mean something only in their own generation."""
        if rule is None:
            return None
        if self._policy is not None and self._policy[0] == generation:
            return self._policy[1].rule_name(rule) or f"#{rule}"
        return f"#{rule} of generation {generation}"


async def serve(control_fd: int) -> int:
    """Speaks with the data plane at the other end of `control_fd` until it is gone."""
    service: Service | None = None
    early: list[Event] = []

    def on_event(event: Event) -> None:
        if service is not None:
            service.on_event(event)
        else:
            early.append(event)

    channel = Channel(socket.socket(fileno=control_fd), on_event)
    try:
        hello, telemetry = await channel.hello()
    except (ChannelClosedError, ProtocolError, TimeoutError) as error:
        _log.error("no hello from the data plane: %s", error)
        return EXIT_PROTOCOL
    service = Service(channel, hello, telemetry)
    for event in early:
        service.on_event(event)
    try:
        return await service.run()
    finally:
        channel.close()
        sys.stderr.flush()
