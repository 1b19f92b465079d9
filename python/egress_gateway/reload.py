"""One policy change, whole or not at all: load → compile → seal → install, one at a time.

Whoever wants a reload (start, file event, SIGHUP, `egress reload`) asks here. Requests that arrive while one runs
share the next one, so a burst costs two reloads at most and everybody gets the outcome of a load that began after
the request.

Loading runs in a thread and not in a process: the compile step and the reading of lists are Rust and release the
GIL, so what remains is the parsing of YAML, which holds it for stretches of one switch interval (5 ms). A process
would add about 0.2 s of interpreter start to every change.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Generic, Protocol, TypeVar

from egress_gateway import outcome as outcomes
from egress_gateway.channel import Channel, ChannelClosedError
from egress_gateway.errors import ConfigError, ConfigErrors, Path
from egress_gateway.messages import Installed, Memo, ProtocolError, Refused
from egress_gateway.outcome import Outcome, Trouble

#: Seconds. A million names load in a few; beyond this the file system hangs. The thread cannot be stopped: later
#: attempts queue behind it, and fail with the same words until it returns.
LOAD_TIMEOUT: Final = 120.0

_log = logging.getLogger(__name__)


class Sealable(Protocol):
    """What a reload needs of a compiled policy."""

    @property
    def digest(self) -> str: ...
    def seal(self) -> int: ...


class Candidate(Protocol):
    """A loaded, checked and compiled policy on its way to the data plane."""

    @property
    def policy(self) -> Sealable: ...
    def memo(self) -> Memo: ...
    def error(self, path: Path, code: str, message: str, fix: str) -> ConfigError: ...


C = TypeVar("C", bound=Candidate)
C_contra = TypeVar("C_contra", bound=Candidate, contravariant=True)


class Hooks(Protocol[C_contra]):
    """What else has to happen around a reload. None of these may block the loop."""

    async def before_load(self) -> None:
        """Ahead of each load: the watcher takes its fingerprint, so that a change during the load is seen."""

    async def before_install(self, candidate: C_contra) -> None:
        """The candidate's last hurdle. Raises ConfigErrors to refuse it."""

    def after(self, outcome: Outcome, candidate: C_contra | None) -> None:
        """Told of each end. `candidate` is there whenever the files could be loaded, in force or not."""


class Reloader(Generic[C]):
    """Knows which policy is in force, and changes it. `generation` and `digest` start as the data plane says."""

    def __init__(
        self,
        channel: Channel,
        load: Callable[[], C],
        hooks: Hooks[C],
        *,
        generation: int,
        digest: str | None,
    ) -> None:
        self._channel = channel
        self._load = load
        self._hooks = hooks
        self._loader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="load")
        self._next: asyncio.Future[Outcome] | None = None
        self._causes: list[str] = []
        self._runner: asyncio.Task[None] | None = None
        self.generation = generation
        self.digest = digest
        self.last: Outcome | None = None
        self.counts: dict[outcomes.Result, int] = dict.fromkeys(outcomes.RESULTS, 0)

    @property
    def config_error(self) -> bool:
        """Whether the files on disk are not what is in force, because the last reload did not succeed."""
        return self.last is not None and not self.last.ok

    async def request(self, cause: str) -> Outcome:
        """The outcome of a reload that begins after this call. Never raises for what is wrong with a policy."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        if cause not in self._causes:
            self._causes.append(cause)
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run(), name="reload")
        # Shielded: a client that hangs up must not take the outcome from the others.
        return await asyncio.shield(self._next)

    async def _run(self) -> None:
        while self._next is not None:
            waiting, self._next = self._next, None
            cause, self._causes = "+".join(self._causes), []
            result = await self._attempt(cause)
            self.last = result
            self.counts[result.result] += 1
            waiting.set_result(result)

    async def _attempt(self, cause: str) -> Outcome:
        began = time.monotonic()
        candidate: C | None = None
        result: outcomes.Result = "failed"
        errors: list[Trouble] = []
        more = untold = closing = 0
        try:
            await self._hooks.before_load()
            candidate = await self._loaded()
            await self._hooks.before_install(candidate)
            reply = await self._install(candidate)
            if isinstance(reply, Installed):
                self.generation, self.digest = reply.generation, candidate.policy.digest
                result, closing = ("changed" if reply.changed else "unchanged"), reply.closing
            else:
                untold = reply.more
                raise ConfigErrors(candidate.error(one.at, one.code, one.message, one.fix) for one in reply.errors)
        except ConfigErrors as found:
            result = "refused"
            errors, more = outcomes.from_config(found)
            more += untold
        except TimeoutError as error:
            errors = [outcomes.trouble("timeout", str(error), "look at the gateway's log and load, then reload again")]
        except (ChannelClosedError, ProtocolError) as error:
            errors = [outcomes.trouble("data_plane", str(error), "the gateway has ended or must be restarted")]
        except Exception as error:  # a bug must not end the service that would show it
            _log.exception("a reload broke")
            errors = [outcomes.trouble("internal", f"{type(error).__name__}: {error}", "this is a bug: report it")]
        ended = Outcome(
            result=result,
            cause=cause,
            time=time.time(),
            seconds=time.monotonic() - began,
            generation=self.generation,
            digest=self.digest,
            closing=closing,
            errors=errors,
            more_errors=more,
        )
        _log.log(logging.INFO if ended.ok else logging.ERROR, "%s", ended.render())
        self._hooks.after(ended, candidate)
        return ended

    async def _loaded(self) -> C:
        loop = asyncio.get_running_loop()
        try:
            return await asyncio.wait_for(loop.run_in_executor(self._loader, self._load), LOAD_TIMEOUT)
        except TimeoutError:
            raise TimeoutError(f"loading the policy took longer than {LOAD_TIMEOUT:g} s") from None

    async def _install(self, candidate: C) -> Installed | Refused:
        fd = await asyncio.to_thread(candidate.policy.seal)
        try:
            return await self._channel.install(fd, candidate.memo())
        finally:
            os.close(fd)
