"""Notices that a file of the policy has changed, and says so once per change.

Two ways lead to one question. File events (inotify(7)) wake the watcher at once; a poll every few seconds covers what
events miss: network file systems, a directory that did not exist, a file that is written and stays open.
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

from asyncinotify import Event, Inotify, Mask

from egress_gateway.fingerprint import ANY, EMPTY, UNREADABLE, Fingerprint, Fingerprinter, places

#: Seconds between looks without any event.
POLL: Final = 2.0
#: What can change the contents of a watched name. Each write by itself is not asked for: churn beside the policy (a
#: policy file in /tmp) is to cost little, and who writes closes.
EVENTS: Final = (
    Mask.CLOSE_WRITE | Mask.CREATE | Mask.DELETE | Mask.MOVE | Mask.ATTRIB | Mask.DELETE_SELF | Mask.MOVE_SELF
) | Mask.ONLYDIR
#: Seconds between two times at which events are taken in, and how many are at most: the kernel keeps the others, and
#: says so where it has lost some.
BREATH: Final = 0.1
MOST_EVENTS: Final = 4096
#: Seconds that a file which has just become empty or unreadable may stay so before that counts as the change:
#: the gap between an editor's truncate (or unlink) and its write.
HOLD: Final = 1.0
#: Seconds between looks while a change is settling.
SETTLE: Final = 0.1
#: Looks. A file that keeps changing is loaded after this many all the same (about 3 s).
MAX_SETTLING: Final = 30

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
        self._inotify: Inotify | None = None
        self._breath: asyncio.TimerHandle | None = None
        #: By watch descriptor: the names that matter in its directory.
        self._names: dict[int, set[str]] = {}
        #: Why there are no events, as it was logged.
        self._deaf = ""
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
        self._wake.set()
        if loaded_at is not None:
            self._adopt = dict.fromkeys(added, loaded_at)

    async def look(self) -> Fingerprint:
        """The contents as they are now. Runs in a thread; looks never overlap."""
        async with self._looking:
            self.looks += 1
            return await asyncio.to_thread(self._fingerprinter.look, self.paths)

    async def run(self) -> None:
        """Until cancelled."""
        # Whatever has happened since the files were loaded is found by a look now.
        self._wake.set()
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    # Not wait_for: that of Python 3.11 swallows a cancellation which meets the event.
                    async with asyncio.timeout(self._poll):
                        await self._wake.wait()
                self._wake.clear()
                self._listen()
                if await self._settled_change():
                    await self._on_change()
        finally:
            self._close()

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

    def _listen(self) -> None:
        """Watches the directories that matter by now. Before each look: one that was replaced is another one."""
        try:
            if self._inotify is None:
                self._inotify = Inotify(sync_timeout=0)
                self._take_in()
            names: dict[int, set[str]] = {}
            for directory, matter in places(self._paths).items():
                with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                    # Several ways lead to one directory: links.
                    names.setdefault(self._inotify.add_watch(directory, EVENTS).wd, set()).update(matter)
            self._names = names
            for watch in self._inotify.watches:
                if watch.wd not in names:
                    # The kernel takes a directory that is gone off the list itself.
                    with contextlib.suppress(OSError):
                        self._inotify.rm_watch(watch)
            self._deaf = ""
        except OSError as error:
            if self._deaf != (why := error.strerror or str(error)):
                _log.warning("there are no file events (%s); a change is seen within %g s", why, self._poll)
            self._deaf = why

    def _take_in(self) -> None:
        """Takes in the events there are, then waits for more."""
        assert self._inotify is not None
        for _ in range(MOST_EVENTS):
            if (event := self._inotify.sync_get()) is None:
                asyncio.get_running_loop().add_reader(self._inotify.fd, self._heard)
                return
            if self._concerns(event):
                self._wake.set()
        self._heard()

    def _heard(self) -> None:
        """Not one look for each event of a burst."""
        assert self._inotify is not None
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._inotify.fd)
        self._breath = loop.call_later(BREATH, self._take_in)

    def _concerns(self, event: Event) -> bool:
        if event.watch is None or event.name is None:
            # Events were lost, or it is about a directory itself.
            return True
        names = self._names.get(event.watch.wd, set())
        return ANY in names or str(event.name) in names

    def _close(self) -> None:
        if self._breath is not None:
            self._breath.cancel()
        if self._inotify is not None:
            asyncio.get_running_loop().remove_reader(self._inotify.fd)
            self._inotify.close()
        self._inotify = self._breath = None


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
