"""The gateway and its peers, each with the same task: pass TLS through by SNI for four names to four backends."""

from __future__ import annotations

from peers.capped import HAPROXY as HAPROXY_BWLIM
from peers.envoy import ENVOY
from peers.forward import FORWARDING
from peers.gateway import EGRESS, egress
from peers.peer import NAMES, Peer, Running
from peers.proxies import DIRECT, HAPROXY, HAPROXY_TUNED, NGINX, SNIPROXY

__all__ = ["ALL", "KNOWN", "NAMES", "Peer", "Running", "egress", "missing", "present"]

#: `direct` is the floor and no peer: it is never the best.
ALL = {peer.name: peer for peer in (EGRESS, HAPROXY, HAPROXY_TUNED, NGINX, SNIPROXY, ENVOY, DIRECT)}

#: With those that take part in one row only.
KNOWN = {**{peer.name: peer for peer in (*FORWARDING, HAPROXY_BWLIM)}, **ALL}


def present(names: list[str] | None = None) -> list[Peer]:
    """Peers whose programs are installed, of those named."""
    return [peer for peer in KNOWN.values() if (names is None or peer.name in names) and peer.missing() is None]


def missing() -> dict[str, str]:
    """Why the others are not measured."""
    return {peer.name: why for peer in KNOWN.values() if (why := peer.missing()) is not None}
