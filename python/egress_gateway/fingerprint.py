"""What the watched files contain, as digests: the only thing that decides whether a file has *changed*.

Timestamps are never trusted to say so (Kubernetes mounts keep them, `touch` moves them, coarse clocks repeat
them). They are used for one thing: not to read a large file again that shows every sign of being untouched.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

#: Bytes. Files up to this size are read at every look (1 MiB hashes in about 2 ms); larger ones, the lists of
#: names, only when their inode, size or times moved.
ALWAYS_READ: Final = 1024 * 1024
#: Nanoseconds. A file whose times are younger than this when it is read may change again within one tick of the
#: file system's clock and show the same times: it is read again at the next look (git's "racily clean").
RACY_NS: Final = 2_000_000_000
#: Files. A directory with more entries than this is not a policy directory; the rest is left to the loader,
#: which refuses it with a message.
MAX_FILES: Final = 4096

#: Endings that a policy directory's files may have; others (`README`, `x.yaml~`, `.x.yaml.swp`) are not policy.
POLICY_ENDINGS: Final = (".yaml", ".yml", ".toml", ".json")

#: In place of a digest: the path cannot be read now.
UNREADABLE: Final = "unreadable"
#: In place of a digest: the file is there and has no bytes, as between an editor's truncate and its write.
EMPTY: Final = "empty"

#: In place of a name in a directory: every one.
ANY: Final = ""

Fingerprint = dict[str, str]


@dataclass
class Fingerprinter:
    """Digests of files and directories. Not thread-safe: one look at a time."""

    _known: dict[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)

    def look(self, paths: Iterable[str]) -> Fingerprint:
        """Path → digest for every file in `paths`, directories expanded. Reads files: not for the loop's thread."""
        found = {path: self._digest(path) for path in expand(paths)}
        self._known = {path: known for path, known in self._known.items() if path in found}
        return found

    def _digest(self, path: str) -> str:
        try:
            # Non-blocking, so that a FIFO in a policy directory cannot hang the look.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return UNREADABLE
        with open(fd, "rb") as file:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                return UNREADABLE
            if info.st_size == 0:
                return EMPTY
            signature = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
            known = self._known.get(path)
            if known is not None and known[0] == signature and info.st_size > ALWAYS_READ:
                return known[1]
            try:
                digest = hashlib.file_digest(file, "blake2b").hexdigest()
            except OSError:
                return UNREADABLE
        if time.time_ns() - max(info.st_mtime_ns, info.st_ctime_ns) > RACY_NS:
            self._known[path] = (signature, digest)
        return digest


def expand(paths: Iterable[str]) -> list[str]:
    """Every file that `paths` stands for, in order, once. A directory stands for its policy files, not deeper."""
    files: dict[str, None] = {}
    for path in paths:
        if os.path.isdir(path):
            try:
                names = sorted(os.listdir(path))[:MAX_FILES]
            except OSError:
                names = []
            # A name that begins with a dot is an editor's, or a ConfigMap mount's `..data`.
            files.update((os.path.join(path, n), None) for n in names if n.endswith(POLICY_ENDINGS) and n[0] != ".")
        else:
            files[path] = None
    return list(files)


def places(paths: Iterable[str]) -> dict[str, set[str]]:
    """Directory → the names in it by whose change `paths` may lead to something else; `ANY` stands for all of them.
    Each path's own name in its parent, everything in the path itself if it is a directory, and the same for every link
    on the way (`policy.yaml` → `..data/policy.yaml` → …)."""
    found: dict[str, set[str]] = {}
    for path in paths:
        _follow(Path(os.path.abspath(path)), found, links_left=16)
    return {directory: names for directory, names in found.items() if os.path.isdir(directory)}


def _follow(path: Path, found: dict[str, set[str]], links_left: int) -> None:
    if os.path.isdir(path):
        found.setdefault(str(path), set()).add(ANY)
    found.setdefault(str(path.parent), set()).add(path.name)
    if links_left == 0:
        return
    for part in (path, *path.parents):
        try:
            target = os.readlink(part)
        except OSError:
            continue  # not a link
        rest = path.relative_to(part)
        found.setdefault(str(part.parent), set()).add(part.name)
        _follow(Path(os.path.normpath(part.parent / target)) / rest, found, links_left - 1)
