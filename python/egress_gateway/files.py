"""Which files make up the configuration, and their bytes, all of one moment.

Paths are texts here: `Path.resolve()` would follow the links that Kubernetes swaps, and they must be followed anew.
"""
# ruff: noqa: PTH100, PTH112, PTH114, PTH115, PTH118, PTH120, PTH122, PTH208

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Sequence
from io import BufferedReader

import msgspec

from egress_gateway.errors import ConfigError, ConfigErrors
from egress_gateway.positions import FORMATS, MAX_FILE_BYTES

# How often a directory is read anew because it changed meanwhile; a mount is swapped once in minutes.
_ATTEMPTS = 5
# The link that Kubernetes swaps when a ConfigMap or a Secret changes.
_DATA_LINK = "..data"


class RawFile(msgspec.Struct, frozen=True):
    """`shown` is the path as the operator knows it; `path` is the same, absolute."""

    shown: str
    path: str
    data: bytes


def read_all(paths: Iterable[str | os.PathLike[str]]) -> tuple[list[RawFile], list[ConfigError]]:
    """The files at `paths`: files as they are, directories by what is in them, sorted by name, each file once."""
    found: dict[str, RawFile] = {}
    errors: list[ConfigError] = []
    given = [os.fspath(path) for path in paths]
    for path in given:
        if os.path.isdir(path):
            files, wrong = _directory(path)
        else:
            files, wrong = _each([(path, path)])
        errors += wrong
        for file in files:
            found.setdefault(file.path, file)
    if not given:
        errors.append(
            ConfigError(file="-", code="no_files", message="no policy file is named", fix="name a file or a directory")
        )
    return list(found.values()), errors


def _directory(directory: str) -> tuple[list[RawFile], list[ConfigError]]:
    """Policy files of a directory, without hidden ones and without its subdirectories.

    In a ConfigMap mount every file is a link through `..data`, which is swapped as a whole. Its target is looked up
    once and the files are read from there: two files never come from two versions.
    """
    files: list[RawFile] = []
    errors: list[ConfigError] = []
    for _ in range(_ATTEMPTS):
        version = _version(directory)
        try:
            names = sorted(name for name in os.listdir(directory) if _is_policy(name))
        except OSError as error:
            return [], [_unreadable(directory, error)]
        files, errors = _each([(os.path.join(directory, name), _behind(directory, name, version)) for name in names])
        if _version(directory) == version:
            break
    if not files and not errors:
        known = ", ".join("*" + ending for ending in FORMATS)
        errors = [
            ConfigError(
                file=directory,
                code="no_files",
                message="the directory holds no policy file",
                fix=f"put one in it; read are {known}",
            )
        ]
    return files, errors


def _is_policy(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in FORMATS


def _version(directory: str) -> str | None:
    try:
        return os.readlink(os.path.join(directory, _DATA_LINK))
    except OSError:
        return None


def _behind(directory: str, name: str, version: str | None) -> str:
    path = os.path.join(directory, name)
    if version is not None and os.path.islink(path) and os.readlink(path) == os.path.join(_DATA_LINK, name):
        return os.path.join(directory, version, name)
    return path


def _each(pairs: Sequence[tuple[str, str]]) -> tuple[list[RawFile], list[ConfigError]]:
    files, errors = [], []
    for shown, actual in pairs:
        try:
            files.append(RawFile(shown, os.path.abspath(shown), _read(actual)))
        except OSError as error:
            errors.append(_unreadable(shown, error))
        except ConfigErrors as error:
            errors += [msgspec.structs.replace(each, file=shown) for each in error.errors]
    return files, errors


def _read(path: str) -> bytes:
    # Not blocking: a FIFO in the place of a file would hold the reload for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        _regular(os.fstat(file.fileno()).st_mode)
        # One byte more than is allowed tells a file that is too large from one that just fits.
        return file.read(MAX_FILE_BYTES + 1)


def _regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise ConfigErrors(
            [ConfigError(file="", code="not_a_file", message="this is not a regular file", fix="name a regular file")]
        )


def _unreadable(shown: str, error: OSError) -> ConfigError:
    fix = (
        "check the path"
        if isinstance(error, FileNotFoundError)
        else "check the permissions, also of the directories above"
    )
    return ConfigError(file=shown, code="unreadable", message=reason(error), fix=fix)


def reason(error: OSError) -> str:
    """The system's words for an error, as part of a sentence."""
    text = error.strerror or str(error)
    return f"the file cannot be read: {text[:1].lower()}{text[1:]}"


def resolve_path(path: str, file: str) -> str:
    """Absolute; a relative path starts at the directory of the policy file that says it."""
    return os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(file)), path))


def _open_regular(path: str) -> BufferedReader:
    """Not blocking: see `_read`. Raises OSError, also for what is no regular file."""
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(0, "Not a regular file", path)
    return file


def read_small(path: str, most: int) -> bytes:
    """A file of a few KiB, whole; of one that is larger than `most`, one byte more than that.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    with _open_regular(path) as file:
        return file.read(most + 1)


def digest_of(path: str) -> bytes:
    """BLAKE2b of a list file.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    with _open_regular(path) as file:
        return hashlib.file_digest(file, "blake2b").digest()
