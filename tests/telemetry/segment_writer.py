"""A telemetry segment written in plain Python, word for word by its layout: the data plane's side of the contract."""

from __future__ import annotations

import fcntl
import ipaddress
import mmap
import os
import struct
from typing import Any

from egress_core.ring import layout

AT = layout()
NONE = 0xFFFFFFFF
BOOT = 1_700_000_000_000_000_000

VOCABULARY: dict[str, dict[int, str]] = {
    "verdict": {0: "none", 1: "allow", 2: "deny", 3: "would_deny"},
    "reason": {0: "none", 1: "rule", 2: "rule_deny", 4: "default_deny", 6: "name_mismatch", 13: "malformed"},
    "end": {0: "open", 1: "closed", 2: "refused", 3: "client_reset", 13: "policy_changed"},
    "accept": {1: "tls", 2: "connect", 3: "tcp"},
    "evidence": {0: "address", 2: "login"},
    "stage": {0: "free", 1: "first_bytes", 2: "resolving", 3: "connecting", 5: "relaying"},
}

FORMATS = {
    "flow_id": "<Q", "generation": "<Q", "start_unix_ns": "<Q", "duration_ns": "<Q", "bytes_up": "<Q",
    "bytes_down": "<Q", "first_bytes_us": "<I", "resolve_us": "<I", "connect_us": "<I", "rule_line": "<I",
    "source_port": "<H", "upstream_port": "<H", "peer_port": "<H", "port": "<H", "verdict": "<B", "reason": "<B",
    "end": "<B", "accept": "<B", "listener": "<H", "flags": "<I", "rule": "<I", "name_len": "<B", "rule_len": "<B",
    "listener_len": "<B", "other_len": "<B", "held_up_ns": "<Q", "held_down_ns": "<Q", "waited_us": "<I",
    "held_by_len": "<B", "stage": "<B", "evidence": "<B", "identity_len": "<B",
}  # fmt: skip


def address(text: str | None) -> bytes:
    if text is None:
        return bytes(16)
    ip = ipaddress.ip_address(text)
    return b"\0" * 10 + b"\xff\xff" + ip.packed if ip.version == 4 else ip.packed


def record(flow_id: int, **fields: Any) -> bytes:
    """The bytes of a record; what is not given is a plain allowed flow."""
    values: dict[str, Any] = {
        "flow_id": flow_id, "generation": 1, "start_unix_ns": BOOT, "duration_ns": 1_500_000, "bytes_up": 100,
        "bytes_down": 1000, "first_bytes_us": 300, "resolve_us": NONE, "connect_us": 900, "rule_line": 12,
        "source_port": 40000, "upstream_port": 443, "port": 443, "verdict": 1, "reason": 1, "end": 1, "accept": 1,
        "source": "10.0.0.9", "upstream": "192.0.2.7", "peer": None, "name": b"api.example.com", "rule_name": b"web",
        "listener_name": b"tls", "other": b"", "evidence": 0, "identity": b"", "held_up_ns": 0, "held_down_ns": 0,
        "waited_us": NONE, "held_by": b"",
    } | fields  # fmt: skip
    out = bytearray(AT["size.record"])
    for text, length in (("name", "name_len"), ("rule_name", "rule_len"), ("listener_name", "listener_len"),
                         ("other", "other_len"), ("identity", "identity_len"), ("held_by", "held_by_len")):  # fmt: skip
        values.setdefault(length, len(values[text]))
        out[AT[f"record.{text}"] : AT[f"record.{text}"] + len(values[text])] = values[text]
    for end in ("source", "upstream", "peer"):
        out[AT[f"record.{end}"] : AT[f"record.{end}"] + 16] = address(values[end])
    for key, form in FORMATS.items():
        if key in values:
            struct.pack_into(form, out, AT[f"record.{key}"], values[key])
    return bytes(out)


class SegmentWriter:
    """A sealed memfd with the layout's header, and the writer's rules for head, tail and dropped."""

    def __init__(self, workers: int = 1, ring: int = 64, live: int = 8, totals: int = 1 << 20) -> None:
        self.ring, self.live, self.workers = ring, live, workers
        self.stride = 8192 + ring * AT["size.record"] + -(-live * 256 // 4096) * 4096
        self.resolver = 4096 + workers * self.stride
        self.totals = self.resolver + 4096
        self.size = self.totals + totals
        self.fd = os.memfd_create("telemetry", os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, self.size)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        self.map = mmap.mmap(self.fd, self.size)
        self.map[0:8] = b"EGRESSTM"
        for key, value in (("version", 5), ("header_size", 4096), ("record_size", AT["size.record"]),
                           ("live_slot_size", 256), ("workers", workers), ("ring_capacity", ring),
                           ("live_capacity", live)):  # fmt: skip
            self.put(f"header.{key}", value, "<I")
        for key, value in (("worker_stride", self.stride), ("workers_offset", 4096), ("totals_offset", self.totals),
                           ("totals_size", totals), ("boot_unix_ns", BOOT), ("pid", os.getpid()),
                           ("resolver_offset", self.resolver), ("total_size", self.size)):  # fmt: skip
            self.put(f"header.{key}", value)

    def put(self, key: str, value: int, form: str = "@Q", base: int = 0) -> None:
        at = base + AT[key]
        if form == "@Q" and at % 8 == 0:
            # One store. struct.pack_into clears the bytes first, and a reader at work would see a head of 0.
            with memoryview(self.map) as view, view.cast("Q") as words:
                words[at // 8] = value
        else:
            struct.pack_into(form, self.map, at, value)

    def get(self, key: str, base: int) -> int:
        return int(struct.unpack_from("@Q", self.map, base + AT[key])[0])

    def control(self, worker: int = 0) -> int:
        return 4096 + worker * self.stride + 4096

    def push(self, data: bytes, worker: int = 0) -> bool:
        control = self.control(worker)
        head, tail = self.get("ring.head", control), self.get("ring.tail", control)
        if (head - tail) % 2**64 >= self.ring:
            self.put("ring.dropped", self.get("ring.dropped", control) + 1, base=control)
            return False
        at = control + 4096 + (head % self.ring) * AT["size.record"]
        self.map[at : at + AT["size.record"]] = data
        self.put("ring.head", head + 1, base=control)
        return True

    def slot(self, index: int, worker: int = 0) -> int:
        return self.control(worker) + 4096 + self.ring * AT["size.record"] + index * 256

    def write_live(
        self,
        index: int,
        worker: int = 0,
        seq: int = 2,
        name: bytes = b"live.example.com",
        identity: bytes = b"",
        **fields: Any,
    ) -> None:
        at = self.slot(index, worker)
        values = {"flow_id": index + 1, "generation": 3, "stage": 5, "verdict": 1, "reason": 1, "accept": 1,
                  "port": 443, "source_port": 4000, "bytes_up": 7, "rule": NONE,
                  "name_len": len(name), "identity_len": len(identity)} | fields  # fmt: skip
        for key, value in values.items():
            self.put(f"live.{key}", value, FORMATS[key], base=at)
        self.map[at + AT["live.source"] : at + AT["live.source"] + 16] = address("10.0.0.9")
        for key, text, room in (("name", name, 112), ("identity", identity, 32)):
            place = at + AT[f"live.{key}"]
            self.map[place : place + min(len(text), room)] = text[:room]
        self.put("live.seq", seq, base=at)
        page = self.control(worker) - 4096
        self.put("worker.live_used", max(index + 1, self.get("worker.live_used", page)), base=page)
