"""The data plane and the policy, compiled from rust/."""

from typing import final

__all__: list[str]

class PolicyError(ValueError):
    """A policy that cannot be compiled."""

    problems: list[tuple[list[str | int], str, str, str]]
    """All of them: path in the normalised document, code, message, fix."""

@final
class Policy:
    """A compiled policy: the same code decides here and in the gateway."""

    @staticmethod
    def compile(document: bytes) -> Policy:
        """Compile a normalised document (JSON), off the GIL; raises PolicyError with every problem."""

    @property
    def digest(self) -> str:
        """Hex; equal for equal documents and list contents."""

    @property
    def rules(self) -> int: ...
    @property
    def names(self) -> int: ...
    @property
    def size(self) -> int:
        """Bytes of the compiled form."""

    def seal(self) -> int:
        """The compiled form in a new sealed memfd; the caller owns the descriptor."""

    def explain(
        self,
        source: str,
        host: str,
        port: int,
        *,
        user: str | None = None,
        spiffe: str | None = None,
        tlv: str | None = None,
    ) -> bytes:
        """The decision for one connection, with the candidates, the nearest miss and what would allow it, as JSON.
        `user`, `spiffe` and `tlv` are what the caller has shown besides its address. ValueError when one of them, the
        source or the host is not valid."""

    def rule_name(self, index: int) -> str | None: ...

@final
class Gateway:
    """The data plane."""

    def __new__(cls, options: bytes) -> Gateway: ...
    def run(self) -> int:
        """Enter Rust, off the GIL, until the gateway has stopped; gives the exit code. OSError when it cannot start."""

def build_profile() -> str:
    """`release` or `debug`."""

def check_tls(certificate: bytes, key: bytes, client_ca: bytes | None = None) -> tuple[str, str, str] | None:
    """None when a listener can serve TLS by these PEM files; else the key that names the one to blame, why, and what to
    do about it."""

def vocabulary() -> dict[str, dict[int, str]]:
    """The words of verdict, reason, end, accept, stage and evidence by their numbers in shared memory."""

def counters() -> dict[str, list[str]]:
    """The names of the words of the counter pages `worker` and `resolver`, by index."""

def layout() -> dict[str, int]:
    """Every offset and size in bytes of the telemetry segment."""
