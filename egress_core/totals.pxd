"""The table of totals: an open-addressing hash table in the segment's totals region, which outlives the process.

Region: a header page, one pair of positions (folded, logged) per worker, then entries; entry 0 is `other`, the rest are
the table's slots. One process at a time writes it. A kill may come between any two stores, so an entry's `state` is set
after its key is whole, and a worker's position is stored after the record is added: what is added again after a
restart is one record per worker at most.

The bound: once `limit` combinations of labels are in use every new one is added to `other`, so no record is left out and
the sum over all entries is the number of records folded.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

cdef extern from *:
    """
    #ifndef EGRESS_TOTALS_H
    #define EGRESS_TOTALS_H
    #include <stdint.h>
    #include <stddef.h>
    #define TOTALS_MAGIC UINT64_C(0x5454535345524745)  /* b"EGRESSTT", little-endian */
    enum {
        TOTALS_VERSION = 1,            /* raised with every change of this layout: an older table is cleared */
        TOTALS_BOUNDS = 12,            /* upper bounds of a histogram; one more bucket has none */
        TOTALS_MAX_WORKERS = 1024,     /* pairs of positions there is room for */
        TOTALS_MAX_SLOTS = 4096,       /* twice the 2,048 combinations of labels that are told apart */
        TOTALS_MIN_SLOTS = 16,
        TOTALS_POSITIONS = 4096,       /* offset of the positions; the header page is before them */
        TOTALS_ENTRIES = 4096 + 1024 * 16
    };
    /* Microseconds. A flow lives from milliseconds to hours; a step on its way takes from microseconds to the timeouts. */
    static const uint64_t EGRESS_DURATION_US[TOTALS_BOUNDS] = {
        5000, 10000, 50000, 100000, 500000, 1000000, 5000000, 10000000, 30000000, 60000000, 300000000, 3600000000u};
    static const uint64_t EGRESS_STEP_US[TOTALS_BOUNDS] = {
        250, 500, 1000, 2500, 5000, 10000, 25000, 50000, 100000, 500000, 1000000, 5000000};

    typedef struct { uint64_t bucket[TOTALS_BOUNDS + 1]; uint64_t sum_us; } EgressHistogram;
    typedef struct {
        uint64_t state;                /* 0 = free, 1 = in use */
        uint64_t hash;
        uint8_t verdict, reason, end, rule_len, listener_len, pad[3];
        char rule[64];
        char listener[32];
        uint64_t pad2;
        uint64_t connections, bytes_up, bytes_down;
        EgressHistogram duration, first_bytes, resolve, connect;
        uint64_t pad3[5];
    } EgressEntry;
    _Static_assert(sizeof(EgressEntry) == 640, "ten cache lines");
    typedef struct {
        uint64_t magic;
        uint32_t version, entry_size, slots, limit, workers, bounds;
        uint64_t boot_unix_ns, faults, attaches, overflowed;
    } EgressTotalsHeader;

    static inline void egress_observe(EgressHistogram *h, const uint64_t *bounds, uint64_t us)
    {
        unsigned bucket = 0;
        for (unsigned i = 0; i < TOTALS_BOUNDS; i++) bucket += us > bounds[i];
        h->bucket[bucket] += 1;
        h->sum_us += us;
    }
    static inline uint64_t egress_mix(uint64_t h, const char *at, size_t len)
    {
        uint64_t word;
        while (len >= 8) { memcpy(&word, at, 8); h = (h ^ word) * UINT64_C(0x9e3779b97f4a7c15); h ^= h >> 29; at += 8; len -= 8; }
        word = len;
        for (size_t i = 0; i < len; i++) word = word << 8 | (uint8_t)at[i];
        h = (h ^ word) * UINT64_C(0x9e3779b97f4a7c15);
        return h ^ h >> 32;
    }
    #endif
    """
    const uint64_t TOTALS_MAGIC
    enum:
        TOTALS_VERSION
        TOTALS_BOUNDS
        TOTALS_MAX_WORKERS
        TOTALS_MAX_SLOTS
        TOTALS_MIN_SLOTS
        TOTALS_POSITIONS
        TOTALS_ENTRIES
    const uint64_t *EGRESS_DURATION_US
    const uint64_t *EGRESS_STEP_US
    ctypedef struct EgressHistogram:
        uint64_t *bucket
        uint64_t sum_us
    ctypedef struct EgressEntry:
        uint64_t state, hash
        uint8_t verdict, reason, end, rule_len, listener_len
        char *rule
        char *listener
        uint64_t connections, bytes_up, bytes_down
        EgressHistogram duration, first_bytes, resolve, connect
    ctypedef struct EgressTotalsHeader:
        uint64_t magic
        uint32_t version, entry_size, slots, limit, workers, bounds
        uint64_t boot_unix_ns, faults, attaches, overflowed
    void egress_observe(EgressHistogram *h, const uint64_t *bounds, uint64_t us) noexcept nogil
    uint64_t egress_mix(uint64_t h, const char *at, size_t len) noexcept nogil


ctypedef struct Table:
    EgressTotalsHeader *header
    EgressEntry *entries
    # Copies of what the header says, taken from the region's size: the header itself may be scribbled over.
    uint64_t slots
    uint64_t limit
    uint64_t used
    # The entry of the record before: flows of one rule come in runs.
    EgressEntry *last


cdef inline int table_open(Table *table, char *region, uint64_t size, uint32_t workers, uint64_t boot) noexcept nogil:
    """Attaches to the region, clearing it where it is of another layout or boot; -1 when it is too small."""
    cdef uint64_t slots = TOTALS_MAX_SLOTS
    cdef EgressTotalsHeader *header = <EgressTotalsHeader *> region
    cdef uint64_t i
    while slots >= TOTALS_MIN_SLOTS and TOTALS_ENTRIES + (slots + 1) * sizeof(EgressEntry) > size:
        slots >>= 1
    if slots < TOTALS_MIN_SLOTS or workers > TOTALS_MAX_WORKERS:
        return -1
    table.header = header
    table.entries = <EgressEntry *> (region + TOTALS_ENTRIES)
    table.slots = slots
    table.limit = slots >> 1
    table.used = 0
    table.last = NULL
    if (header.magic != TOTALS_MAGIC or header.version != TOTALS_VERSION or header.entry_size != sizeof(EgressEntry)
            or header.slots != slots or header.limit != table.limit or header.workers != workers
            or header.bounds != TOTALS_BOUNDS or header.boot_unix_ns != boot):
        header.magic = 0
        egress_clear(region, TOTALS_ENTRIES + (slots + 1) * sizeof(EgressEntry))
        header.version = TOTALS_VERSION
        header.entry_size = sizeof(EgressEntry)
        header.slots = <uint32_t> slots
        header.limit = <uint32_t> table.limit
        header.workers = workers
        header.bounds = TOTALS_BOUNDS
        header.boot_unix_ns = boot
        return 1
    for i in range(1, slots + 1):
        table.used += table.entries[i].state == 1
    return 0


cdef inline void egress_clear(char *region, uint64_t size) noexcept nogil:
    memset(region, 0, size)


cdef inline bint entry_is(EgressEntry *entry, uint64_t hash, uint32_t kinds, const char *rule, uint8_t rule_len,
                          const char *listener, uint8_t listener_len) noexcept nogil:
    return (entry.hash == hash and entry.rule_len == rule_len and entry.listener_len == listener_len
            and (entry.verdict | entry.reason << 8 | entry.end << 16) == <int> kinds
            and memcmp(entry.rule, rule, rule_len) == 0 and memcmp(entry.listener, listener, listener_len) == 0)


cdef inline EgressEntry *table_entry(Table *table, uint32_t kinds, const char *rule, uint8_t rule_len,
                                     const char *listener, uint8_t listener_len) noexcept nogil:
    """The entry of these labels, made if there is room, else `other`. `kinds` is verdict | reason << 8 | end << 16."""
    cdef uint64_t hash = egress_mix(egress_mix(kinds, rule, rule_len), listener, listener_len)
    cdef EgressEntry *entry = table.last
    cdef uint64_t probe, at = hash & (table.slots - 1)
    if entry != NULL and entry_is(entry, hash, kinds, rule, rule_len, listener, listener_len):
        return entry
    for probe in range(table.slots):
        entry = &table.entries[1 + at]
        if entry.state != 1:
            break
        if entry_is(entry, hash, kinds, rule, rule_len, listener, listener_len):
            table.last = entry
            return entry
        at = (at + 1) & (table.slots - 1)
    if table.used >= table.limit or entry.state == 1:
        table.header.overflowed += 1
        table.entries[0].state = 1
        return &table.entries[0]
    memset(entry, 0, sizeof(EgressEntry))
    entry.hash = hash
    entry.verdict = kinds & 0xff
    entry.reason = (kinds >> 8) & 0xff
    entry.end = (kinds >> 16) & 0xff
    entry.rule_len = rule_len
    entry.listener_len = listener_len
    memcpy(entry.rule, rule, rule_len)
    memcpy(entry.listener, listener, listener_len)
    egress_compiler_fence_totals()
    entry.state = 1
    table.used += 1
    table.last = entry
    return entry


cdef extern from *:
    """
    #define egress_compiler_fence_totals() __atomic_signal_fence(__ATOMIC_SEQ_CST)
    """
    void egress_compiler_fence_totals() noexcept nogil
