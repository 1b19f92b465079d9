//! Offsets and sizes in bytes of everything in the telemetry segment. All of it is little-endian, in words of 8 bytes.

/// `b"EGRESSTM"` read as a little-endian word.
pub const MAGIC: u64 = u64::from_le_bytes(*b"EGRESSTM");
/// Raised with every change of an offset, a size or a meaning.
pub const VERSION: u32 = 5;
pub const HEADER_SIZE: usize = 4096;
/// One page per worker (and one for the resolver), so that no two writers share a cache line.
pub const COUNTER_PAGE: usize = 4096;
/// The ring's positions, on a page of their own.
pub const RING_CONTROL: usize = 4096;
/// Twelve cache lines.
pub const RECORD_SIZE: usize = 768;
pub const LIVE_SLOT_SIZE: usize = 256;
/// Bytes of the totals table, which only the control plane reads and writes; it lives here to survive that process.
pub const TOTALS_SIZE: usize = 4 << 20;

macro_rules! offsets {
    ($(#[$doc:meta])* $module:ident, $prefix:literal { $($name:ident = $offset:literal $key:literal,)+ }) => {
        $(#[$doc])*
        pub mod $module {
            $(pub const $name: usize = $offset;)+
            pub(super) const FIELDS: &[(&str, usize)] = &[$((concat!($prefix, $key), $offset),)+];
        }
    };
}

offsets! {
    /// The header at offset 0.
    header, "header." {
        MAGIC = 0 "magic", VERSION = 8 "version", HEADER_SIZE = 12 "header_size", RECORD_SIZE = 16 "record_size",
        LIVE_SLOT_SIZE = 20 "live_slot_size", WORKERS = 24 "workers", RING_CAPACITY = 28 "ring_capacity",
        LIVE_CAPACITY = 32 "live_capacity", WORKER_STRIDE = 40 "worker_stride", WORKERS_OFFSET = 48 "workers_offset",
        TOTALS_OFFSET = 56 "totals_offset", TOTALS_SIZE = 64 "totals_size", BOOT_UNIX_NS = 72 "boot_unix_ns",
        PID = 80 "pid", RESOLVER_OFFSET = 88 "resolver_offset", TOTAL_SIZE = 96 "total_size",
    }
}

offsets! {
    /// What stands on a worker's counter page behind the counters.
    worker, "worker." { LIVE_USED = 4032 "live_used", }
}

offsets! {
    /// The ring's control page.
    ring, "ring." { HEAD = 0 "head", DROPPED = 8 "dropped", TAIL = 64 "tail", }
}

offsets! {
    /// The record of a finished flow.
    record, "record." {
        FLOW_ID = 0 "flow_id", GENERATION = 8 "generation", START_UNIX_NS = 16 "start_unix_ns",
        DURATION_NS = 24 "duration_ns", BYTES_UP = 32 "bytes_up", BYTES_DOWN = 40 "bytes_down",
        FIRST_BYTES_US = 48 "first_bytes_us", RESOLVE_US = 52 "resolve_us", CONNECT_US = 56 "connect_us",
        RULE_LINE = 60 "rule_line", SOURCE = 64 "source", UPSTREAM = 80 "upstream", SOURCE_PORT = 96 "source_port",
        UPSTREAM_PORT = 98 "upstream_port", PORT = 100 "port", VERDICT = 102 "verdict", REASON = 103 "reason",
        END = 104 "end", ACCEPT = 105 "accept", LISTENER = 106 "listener", FLAGS = 108 "flags", RULE = 112 "rule",
        NAME_LEN = 116 "name_len", RULE_LEN = 117 "rule_len", LISTENER_LEN = 118 "listener_len",
        OTHER_LEN = 119 "other_len", NAME = 120 "name", RULE_NAME = 376 "rule_name", LISTENER_NAME = 440 "listener_name",
        OTHER = 472 "other", EVIDENCE = 512 "evidence", IDENTITY_LEN = 513 "identity_len",
        PEER_PORT = 514 "peer_port", PEER = 516 "peer", IDENTITY = 532 "identity", HELD_UP_NS = 640 "held_up_ns",
        HELD_DOWN_NS = 648 "held_down_ns", WAITED_US = 656 "waited_us", HELD_BY_LEN = 660 "held_by_len",
        HELD_BY = 664 "held_by",
    }
}

offsets! {
    /// One slot of the live table.
    live, "live." {
        SEQ = 0 "seq", FLOW_ID = 8 "flow_id", GENERATION = 16 "generation", START_UNIX_NS = 24 "start_unix_ns",
        BYTES_UP = 32 "bytes_up", BYTES_DOWN = 40 "bytes_down", RULE = 48 "rule", STAGE = 52 "stage",
        VERDICT = 53 "verdict", REASON = 54 "reason", NAME_LEN = 55 "name_len", SOURCE = 56 "source",
        UPSTREAM = 72 "upstream", SOURCE_PORT = 88 "source_port", UPSTREAM_PORT = 90 "upstream_port", PORT = 92 "port",
        LISTENER = 94 "listener", FLAGS = 96 "flags", ACCEPT = 100 "accept", EVIDENCE = 101 "evidence",
        IDENTITY_LEN = 102 "identity_len", RULE_LINE = 104 "rule_line", NAME = 112 "name", IDENTITY = 224 "identity",
    }
}

/// Room for the name in a record, in a live slot, and for the other strings of a record, in bytes.
pub const NAME_ROOM: usize = 256;
pub const LIVE_NAME_ROOM: usize = 112;
pub const RULE_NAME_ROOM: usize = 64;
pub const LISTENER_NAME_ROOM: usize = 32;
pub const OTHER_ROOM: usize = 40;
pub const IDENTITY_ROOM: usize = 108;
pub const LIVE_IDENTITY_ROOM: usize = 32;

const SIZES: &[(&str, usize)] = &[
    ("size.header", HEADER_SIZE),
    ("size.counter_page", COUNTER_PAGE),
    ("size.ring_control", RING_CONTROL),
    ("size.record", RECORD_SIZE),
    ("size.live_slot", LIVE_SLOT_SIZE),
    ("size.name", NAME_ROOM),
    ("size.live_name", LIVE_NAME_ROOM),
    ("size.rule_name", RULE_NAME_ROOM),
    ("size.listener_name", LISTENER_NAME_ROOM),
    ("size.other", OTHER_ROOM),
    ("size.identity", IDENTITY_ROOM),
    ("size.live_identity", LIVE_IDENTITY_ROOM),
    ("size.totals", TOTALS_SIZE),
];

/// Every offset and size by its key.
pub fn fields() -> impl Iterator<Item = (&'static str, usize)> {
    [header::FIELDS, worker::FIELDS, ring::FIELDS, record::FIELDS, live::FIELDS, SIZES]
        .into_iter()
        .flatten()
        .copied()
}
