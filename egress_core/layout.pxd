"""Offsets and sizes, in bytes, of the telemetry segment: the Cython side's one copy of the contract.

The writing side's copy is rust/crates/flowlog/src/layout.rs; tests/telemetry/test_layout.py compares the two, so a
change of either without the other is a failed test and never a misread field. All integers are little-endian.
"""

cdef enum:
    LAYOUT_VERSION = 5

    SIZE_HEADER = 4096
    # One page per worker, and one for the resolver, so that no two writers share a cache line.
    SIZE_COUNTER_PAGE = 4096
    SIZE_RING_CONTROL = 4096
    SIZE_RECORD = 768
    SIZE_LIVE_SLOT = 256
    SIZE_NAME = 256
    SIZE_LIVE_NAME = 112
    SIZE_RULE_NAME = 64
    SIZE_LISTENER_NAME = 32
    SIZE_OTHER = 40
    SIZE_IDENTITY = 108
    SIZE_LIVE_IDENTITY = 32
    SIZE_TOTALS = 4194304

    HEADER_MAGIC = 0
    HEADER_VERSION = 8
    HEADER_HEADER_SIZE = 12
    HEADER_RECORD_SIZE = 16
    HEADER_LIVE_SLOT_SIZE = 20
    HEADER_WORKERS = 24
    HEADER_RING_CAPACITY = 28
    HEADER_LIVE_CAPACITY = 32
    HEADER_WORKER_STRIDE = 40
    HEADER_WORKERS_OFFSET = 48
    HEADER_TOTALS_OFFSET = 56
    HEADER_TOTALS_SIZE = 64
    HEADER_BOOT_UNIX_NS = 72
    HEADER_PID = 80
    HEADER_RESOLVER_OFFSET = 88
    HEADER_TOTAL_SIZE = 96

    # Within a worker's counter page, behind the counters.
    WORKER_LIVE_USED = 4032

    # Within the ring's control page. `tail` has a cache line of its own: it is the only word that the reader writes.
    RING_HEAD = 0
    RING_DROPPED = 8
    RING_TAIL = 64

    RECORD_FLOW_ID = 0
    RECORD_GENERATION = 8
    RECORD_START_UNIX_NS = 16
    RECORD_DURATION_NS = 24
    RECORD_BYTES_UP = 32
    RECORD_BYTES_DOWN = 40
    RECORD_FIRST_BYTES_US = 48
    RECORD_RESOLVE_US = 52
    RECORD_CONNECT_US = 56
    RECORD_RULE_LINE = 60
    RECORD_SOURCE = 64
    RECORD_UPSTREAM = 80
    RECORD_SOURCE_PORT = 96
    RECORD_UPSTREAM_PORT = 98
    RECORD_PORT = 100
    RECORD_VERDICT = 102
    RECORD_REASON = 103
    RECORD_END = 104
    RECORD_ACCEPT = 105
    RECORD_LISTENER = 106
    RECORD_FLAGS = 108
    RECORD_RULE = 112
    RECORD_NAME_LEN = 116
    RECORD_RULE_LEN = 117
    RECORD_LISTENER_LEN = 118
    RECORD_OTHER_LEN = 119
    RECORD_NAME = 120
    RECORD_RULE_NAME = 376
    RECORD_LISTENER_NAME = 440
    RECORD_OTHER = 472
    RECORD_EVIDENCE = 512
    RECORD_IDENTITY_LEN = 513
    RECORD_PEER_PORT = 514
    RECORD_PEER = 516
    RECORD_IDENTITY = 532
    RECORD_HELD_UP_NS = 640
    RECORD_HELD_DOWN_NS = 648
    RECORD_WAITED_US = 656
    RECORD_HELD_BY_LEN = 660
    RECORD_HELD_BY = 664

    LIVE_SEQ = 0
    LIVE_FLOW_ID = 8
    LIVE_GENERATION = 16
    LIVE_START_UNIX_NS = 24
    LIVE_BYTES_UP = 32
    LIVE_BYTES_DOWN = 40
    LIVE_RULE = 48
    LIVE_STAGE = 52
    LIVE_VERDICT = 53
    LIVE_REASON = 54
    LIVE_NAME_LEN = 55
    LIVE_SOURCE = 56
    LIVE_UPSTREAM = 72
    LIVE_SOURCE_PORT = 88
    LIVE_UPSTREAM_PORT = 90
    LIVE_PORT = 92
    LIVE_LISTENER = 94
    LIVE_FLAGS = 96
    LIVE_ACCEPT = 100
    LIVE_EVIDENCE = 101
    LIVE_IDENTITY_LEN = 102
    LIVE_RULE_LINE = 104
    LIVE_NAME = 112
    LIVE_IDENTITY = 224
