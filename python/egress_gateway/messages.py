"""The messages of the control socket, one struct each: what the data plane and the control plane may say.

The socket is AF_UNIX SOCK_SEQPACKET; one packet is one JSON object with the keys `v` and `type`. Both ends come
from one installation, so the structs are strict: an unknown key or type is a bug (or a half-upgraded
installation) and is named, never skipped.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

#: Version of the protocol. Raised whenever a message gains, loses or changes a key.
VERSION: Final = 5

#: Bytes. The largest packet either side sends; the data plane's receive buffer has this size.
MAX_MESSAGE: Final = 32 * 1024


class ProtocolError(Exception):
    """The peer said something that this version does not understand. The message says what to do."""


class Message(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag=str.lower):
    """Base of all messages. `v` is checked before anything else is decoded."""

    v: int = VERSION


# ---- from the data plane (the parent) -------------------------------------------------------------------------


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What `egress run` was told, repeated to its child. Unknown keys are for the data plane alone: skipped."""

    #: Policy files and directories, as typed by the user (relative to the working directory of both processes).
    config: list[str]
    #: Path of the unix socket of the local control.
    control_socket: str | None = None
    #: `host:port` that overrides `admin.bind` of the policy; None = as the policy says.
    admin: str | None = None
    #: Target that overrides `log.decisions` of the policy; None = as the policy says.
    log: str | None = None


class Memo(msgspec.Struct, frozen=True, kw_only=True):
    """What a control process must know of the policy in force even when the files on disk are broken by now. The data
    plane keeps it with the snapshot and gives it to the next control process."""

    #: `host:port` of the admin listener; None = off.
    admin: str | None
    #: Target of the decision log.
    log: str


class Hello(Message, kw_only=True):
    """First packet of every child's life, with the descriptor of the telemetry memory."""

    pid: int
    #: Unix nanoseconds at which the data plane started; the same for all children of one data plane.
    boot: int
    #: 0 = no snapshot yet: the first load decides whether the gateway starts at all.
    generation: int
    digest: str | None
    #: Times that the control plane was started again under this data plane.
    restarts: int = 0
    #: Of the policy in force; None while there is none.
    memo: Memo | None = None
    options: Options


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One reason for which the data plane refused a snapshot, and what the operator can do about it."""

    code: str
    message: str
    fix: str = ""
    #: The part of the normalised document that is to blame; empty when none is.
    at: tuple[str | int, ...] = ()


class Installed(Message, kw_only=True):
    """Answer to `install`. `changed` is false when the digest is the one already in force."""

    id: int
    generation: int
    changed: bool
    #: Live flows that the new policy denies and that end after their grace.
    closing: int = 0


class Refused(Message, kw_only=True):
    """Answer to `install`: nothing changed."""

    id: int
    errors: list[Fault]
    #: Errors that found no room in the message.
    more: int = 0


class WorkerState(msgspec.Struct, frozen=True, kw_only=True):
    #: That it decides by; 0 until it serves.
    generation: int
    active: int
    accepted: int


class ListenerState(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    accept: str
    #: `address:port` as bound (a configured port 0 shows the real one).
    bound: str


class Store(msgspec.Struct, frozen=True, kw_only=True):
    """The file in which it is kept what is used of budgets."""

    path: str
    #: The last time that it was written, that failed.
    failing: bool
    failures: int


class ClusterState(msgspec.Struct, frozen=True, kw_only=True):
    """How it stands with what is shared over gateways."""

    group: str
    #: Without user and password.
    store: str
    #: For how long no round has come to anything, and why; None: the last one has.
    away_ms: int | None
    error: str | None
    #: Gateways that there may be, and that were there last, this one included.
    replicas: int
    seen: int
    #: `shared`: its part by what all want. `settling`: that, but at most the safe share. `last`: as it was when the
    #: store was last heard, a moment ago. `safe`: limits divided by `parts`.
    keeps: Literal["shared", "settling", "last", "safe"]
    parts: int
    rounds: int
    failures: int


class Status(Message, kw_only=True):
    """Answer to `status`."""

    id: int
    generation: int
    digest: str | None
    uptime_ms: int
    draining: bool
    restarts: int = 0
    workers: list[WorkerState]
    listeners: list[ListenerState]
    #: Those that found no room in the message.
    more_workers: int = 0
    more_listeners: int = 0
    #: Where budgets are kept; None before a policy has any.
    budgets: Store | None = None
    #: None: nothing is shared over gateways.
    cluster: ClusterState | None = None


class ReportTold(Message, kw_only=True, tag="report"):
    """Answer to `report`, which is in the packet's descriptor."""

    id: int


class Reload(Message, kw_only=True):
    """The data plane received SIGHUP."""


class Reopen(Message, kw_only=True):
    """The data plane received SIGUSR1: logs are to be opened again, after a rotation."""


class Draining(Message, kw_only=True):
    """The data plane no longer accepts: readiness is over."""


Incoming = Hello | Installed | Refused | Status | ReportTold | Reload | Reopen | Draining
Reply = Installed | Refused | Status
Event = Reload | Reopen | Draining

# ---- from the control plane (the child) ----------------------------------------------------------------------


class Install(Message, kw_only=True):
    """Take the sealed snapshot in the packet's descriptor. Answered by `installed` or `refused`."""

    id: int
    memo: Memo


class StatusQuery(Message, kw_only=True, tag="status"):
    """Answered by `status`."""

    id: int


class ReportQuery(Message, kw_only=True, tag="report"):
    """Answered by `report`, with the report (`egress_gateway.report`) in a descriptor."""

    id: int


class Drain(Message, kw_only=True):
    """Stop accepting and end when the last flow does. Answered by the event `draining`."""


Outgoing = Install | StatusQuery | ReportQuery | Drain


class _Envelope(msgspec.Struct):
    v: Any = None
    type: Any = None


_ENVELOPE = msgspec.json.Decoder(_Envelope)
_INCOMING: msgspec.json.Decoder[Incoming] = msgspec.json.Decoder(Incoming)
_ENCODER = msgspec.json.Encoder()


def decode(packet: bytes) -> Incoming:
    """Raises ProtocolError, in words for the operator, for anything but a message of this version."""
    try:
        envelope = _ENVELOPE.decode(packet)
        if envelope.v != VERSION:
            raise ProtocolError(
                f"the data plane speaks version {envelope.v!r} of the control protocol and this control plane "
                f"version {VERSION}: they come from two installations; restart the gateway"
            )
        return _INCOMING.decode(packet)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"not a message of the control protocol: {error}") from error


def encode(message: Outgoing) -> bytes:
    """Raises ProtocolError when the packet would be larger than MAX_MESSAGE."""
    packet = _ENCODER.encode(message)
    if len(packet) > MAX_MESSAGE:
        raise ProtocolError(f"a message of {len(packet)} bytes exceeds the limit of {MAX_MESSAGE}")
    return packet
