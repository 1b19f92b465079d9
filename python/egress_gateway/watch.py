"""Notices that a file of the policy has changed, and says so once per change.

Two ways lead to one question. File events (inotify, through watchfiles) wake the watcher at once; a poll every few
seconds covers what events miss: network file systems, a directory that did not exist, a queue that overflowed.
Both only *look*: the fingerprint of the contents decides. So an editor's rename-and-replace, truncate-and-write, a
`touch`, and the swap of a ConfigMap's `..data` link are one change, one change, none, and one change.

Directories are watched, never files: a watch on a file dies with its inode at the first rename.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable
from typing import Final

import watchfiles

from egress_gateway.fingerprint import EMPTY, UNREADABLE, Fingerprint, Fingerprinter, directories

#: Seconds between looks without any event.
POLL: Final = 2.0
#: Milliseconds without a further event after which a burst of events is over.
QUIET_MS: Final = 100
#: Milliseconds. The longest that a burst of events is gathered before a look.
BURST_MS: Final = 1000
#: Seconds that a file which has just become empty or unreadable may stay so before that counts as the change:
#: the gap between an editor's truncate (or unlink) and its write.
HOLD: Final = 1.0
#: Seconds between looks while a change is settling.
SETTLE: Final = 0.1
#: Looks. A file that keeps changing is loaded after this many all the same (about 3 s).
MAX_SETTLING: Final = 30
#: Seconds before watching is tried again after it failed (no inotify instances left, for example).
RETRY: Final = 5.0

_log = logging.getLogger(__name__)


class Watcher:
    """`on_change` is awaited for each change of contents. `paths` may be replaced at any time; files and
    directories both, existing or not. `baseline` is the fingerprint that counts as known: whoever loads the files
    for another reason sets it, so that the watcher does not report what has just been loaded."""

    def __init__(self, paths: list[str], on_change: Callable[[], Awaitable[None]], poll: float = POLL) -> None:
        self._paths = list(paths)
        self._on_change = on_change
        self._poll = poll
        self._fingerprinter = Fingerprinter()
        self._looking = asyncio.Lock()
        self._wake = asyncio.Event()
        self._rewatch = asyncio.Event()
        #: Paths that have been loaded but not looked at yet, and when that was (Unix seconds).
        self._adopt: dict[str, float] = {}
        self.baseline: Fingerprint = {}
        self.looks = 0

    @property
    def paths(self) -> list[str]:
        return list(self._paths)

    def set_paths(self, paths: list[str], loaded_at: float | None = None) -> None:
        """Watches these from now on. `loaded_at` (Unix seconds) says that all of them have been loaded since then, so
        that a path which is new here is no change by itself; one written later than that is."""
        if paths == self._paths:
            return
        added, removed = set(paths) - set(self._paths), set(self._paths) - set(paths)
        # What is no longer looked at would be missed at the next look, as if it had been deleted just then.
        self.baseline = {path: digest for path, digest in self.baseline.items() if path not in removed}
        self._paths = list(paths)
        self._rewatch.set()
        if loaded_at is not None:
            self._adopt = dict.fromkeys(added, loaded_at)

    async def look(self) -> Fingerprint:
        """The contents as they are now. Runs in a thread; looks never overlap."""
        async with self._looking:
            self.looks += 1
            return await asyncio.to_thread(self._fingerprinter.look, self.paths)

    async def run(self) -> None:
        """Until cancelled."""
        events = asyncio.create_task(self._events(), name="watch-events")
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    # Not wait_for: that of Python 3.11 swallows a cancellation which meets the event.
                    async with asyncio.timeout(self._poll):
                        await self._wake.wait()
                self._wake.clear()
                if await self._settled_change():
                    await self._on_change()
        finally:
            events.cancel()
            await asyncio.gather(events, return_exceptions=True)

    async def _settled_change(self) -> bool:
        """Whether the contents differ from the baseline, once they hold still. Puts the baseline forward itself,
        so a file that cannot be loaded is reported once and not at every look."""
        seen = await self.look()
        # Asked after the look: what was written since the load may be what the look has seen.
        adopted = {path: seen[path] for path, at in self._adopt.items() if path in seen and _written_before(path, at)}
        self._adopt = {}
        self.baseline = {**adopted, **self.baseline}
        if seen == self.baseline:
            return False
        since = time.monotonic()
        for _ in range(MAX_SETTLING):
            await asyncio.sleep(SETTLE)
            last, seen = seen, await self.look()
            if seen == last and not (_has_gap(self.baseline, seen) and time.monotonic() - since < HOLD):
                break
        # The baseline of now, not that of the beginning: somebody may have loaded the files meanwhile.
        changed = seen != self.baseline
        self.baseline = seen
        return changed

    async def _events(self) -> None:
        while True:
            watched = directories(self._paths)
            self._rewatch.clear()
            # Whatever happened between the last look and the start of this watch is found by a look now.
            self._wake.set()
            try:
                async for changes in watchfiles.awatch(
                    *sorted(watched),
                    watch_filter=self._concerns,
                    debounce=BURST_MS,
                    step=QUIET_MS,
                    # Returns to here at this rhythm even without events, to notice `_rewatch` and new directories.
                    rust_timeout=int(self._poll * 1000),
                    yield_on_timeout=True,
                    recursive=False,
                    ignore_permission_denied=True,
                ):
                    if changes:
                        self._wake.set()
                    if self._rewatch.is_set() or directories(self._paths) != watched:
                        break
            except (OSError, RuntimeError) as error:
                _log.warning("file events are off for %g s, the poll goes on: %s", RETRY, error)
                await asyncio.sleep(RETRY)

    def _concerns(self, _change: watchfiles.Change, path: str) -> bool:
        """Cheap filter, so that churn beside the policy (a policy file in /tmp) costs no look: a watched name, a
        member of a watched directory, or a link (`..data`) that a swap replaced."""
        name = os.path.basename(path)
        if name.startswith("..") or os.path.islink(path):
            return True
        for watched in self._paths:
            if os.path.basename(watched) == name or os.path.isdir(watched):
                return True
            if os.path.basename(os.path.realpath(watched)) == name:
                return True
        return False


def _written_before(path: str, moment: float) -> bool:
    try:
        info = os.stat(path)
    except OSError:
        return False
    return max(info.st_mtime, info.st_ctime) < moment


def _has_gap(before: Fingerprint, now: Fingerprint) -> bool:
    """A file that had contents is empty, unreadable or gone now."""
    gone = (EMPTY, UNREADABLE)
    return any(old not in gone and now.get(path, UNREADABLE) in gone for path, old in before.items())
