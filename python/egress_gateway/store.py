"""The store that gateways share limits through: the files that `cluster` names.

As with certificates, their contents travel in the policy, and no message quotes them: one is a password.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import UNSET

from egress_gateway.files import read_small, reason, resolve_path
from egress_gateway.terms import Cluster

#: Bytes of a file with one password, and of one with roots of certificates.
_MAX_PASSWORD: Final = 4096
_MAX_ROOTS: Final = 512 * 1024

#: Key, code, message, fix.
Trouble = tuple[str, str, str, str]


class Store:
    """What `cluster` comes to. `files` are those that could be read, with their contents."""

    def __init__(self, cluster: Cluster, policy_files: dict[str, str]) -> None:
        """`policy_files` has the policy file that says each key."""
        self.files: list[tuple[str, bytes]] = []
        self.troubles: list[Trouble] = []
        for key, needed in (("store", "redis://valkey.example:6379/0"), ("replicas", "3")):
            # One that is there and cannot be read has been reported.
            if getattr(cluster, key) is UNSET and key not in policy_files:
                self.troubles.append(("", "missing_key", f"`{key}` is missing", f"add `{key}: {needed}`"))
        password = self._read(cluster, "password_file", _MAX_PASSWORD, policy_files)
        if password == "":
            self.troubles.append(("password_file", "bad_password", "the file is empty", "put the password into it"))
        self._document = {
            "store": cluster.store,
            "password": password,
            "ca": self._read(cluster, "ca", _MAX_ROOTS, policy_files),
            "group": cluster.group,
            "replicas": cluster.replicas,
        }

    def document(self) -> dict[str, Any] | None:
        """As the normalised document has it; None where a part is missing or broken."""
        broken = self.troubles or UNSET in (self._document["store"], self._document["replicas"])
        return None if broken else self._document

    def _read(self, cluster: Cluster, key: str, most: int, policy_files: dict[str, str]) -> str | None:
        written = getattr(cluster, key)
        if written is UNSET:
            return None
        path = resolve_path(written, policy_files[key])
        try:
            data = read_small(path, most)
            text = data.decode().strip("\r\n")
        except OSError as error:
            fix = f"a relative path starts at the policy file; looked for {path}"
            self.troubles.append((key, "unreadable", reason(error), fix))
            return None
        except UnicodeDecodeError:
            self.troubles.append((key, "unreadable", "the file is not text", "write it as UTF-8"))
            return None
        if len(data) > most:
            fix = "name a file with nothing else in it"
            self.troubles.append((key, "unreadable", f"the file is larger than {most:,} bytes", fix))
            return None
        self.files.append((path, data))
        return text
