"""The files of a listener's TLS: read whole, and checked by the code that will serve them.

Their contents travel in the policy that is handed to the data plane, not their paths: what was checked is what is
served, and a certificate takes effect as a policy does. No message quotes them: one is a private key.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import UNSET

from egress_core._dataplane import check_tls
from egress_gateway.config import ListenerTls
from egress_gateway.files import read_small, reason, resolve_path

#: Bytes of one file: a chain has a few KiB, a bundle of roots some hundred.
MAX_BYTES: Final = 512 * 1024

#: Key, code, message, fix.
Trouble = tuple[str, str, str, str]


class Certificates:
    """What `tls` of a listener comes to. `files` are those that could be read, with their contents."""

    def __init__(self, tls: ListenerTls, policy_file: str) -> None:
        self.files: list[tuple[str, bytes]] = []
        self.troubles: list[Trouble] = []
        named = {"certificate": tls.certificate, "key": tls.key}
        if tls.client_ca is not UNSET:
            named["client_ca"] = tls.client_ca
        elif tls.client is not UNSET:
            fix = "add `client_ca` with the roots of the clients' certificates, or remove `client`"
            self.troubles.append(
                ("client", "needs_client_ca", "without `client_ca` no certificate can be verified", fix)
            )
        read = {key: self._read(key, resolve_path(path, policy_file)) for key, path in named.items()}
        certificate, key, client_ca = read["certificate"], read["key"], read.get("client_ca")
        if certificate is not None and key is not None and ("client_ca" not in read or client_ca is not None):
            wrong = check_tls(certificate, key, client_ca)
            if wrong is not None:
                which, message, fix = wrong
                self.troubles.append((which, "bad_tls", f"{named[which]}: {message}", fix))
        self._read_files = read
        self._required = tls.client != "optional"

    def document(self) -> dict[str, Any]:
        """As the normalised document has it; to be used only without troubles."""
        texts = {key: None if data is None else data.decode(errors="replace") for key, data in self._read_files.items()}
        return {"client_ca": None, **texts, "client_required": self._required}

    def _read(self, key: str, path: str) -> bytes | None:
        try:
            data = read_small(path, MAX_BYTES)
        except OSError as error:
            fix = f"a relative path starts at the policy file; looked for {path}"
            self.troubles.append((key, "unreadable", reason(error), fix))
            return None
        if len(data) > MAX_BYTES:
            fix = "name a file of PEM sections"
            self.troubles.append((key, "bad_tls", f"the file is larger than {MAX_BYTES:,} bytes", fix))
            return None
        self.files.append((path, data))
        return data
