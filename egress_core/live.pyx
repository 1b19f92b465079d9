# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""Reads the table of live flows and the counter pages while the workers write them: no lock, no wait on either side."""

from heapq import nlargest

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from egress_core.layout cimport *
from egress_core.line cimport address_is_none, address_text
from egress_core.memory cimport *
from egress_core.record cimport Words
from egress_core.ring cimport Segment, words_from

cdef enum:
    # Tries to take one slot whole. A write lasts well under a microsecond, so a slot that is torn eight times running
    # belongs to a writer that died or lies; it is skipped and counted.
    TRIES = 8
    SLOT_WORDS = 32


cdef int take(const char *slot, uint64_t *copy) noexcept nogil:
    """Copies a slot under its sequence lock: 1 = taken, 0 = free, -1 = torn at every try."""
    cdef uint64_t seq
    cdef int i, attempt
    for attempt in range(TRIES):
        seq = egress_acquire(slot + LIVE_SEQ)
        if seq & 1:
            continue
        if egress_u8(slot + LIVE_STAGE) == 0:
            return 0
        for i in range(1, SLOT_WORDS):
            copy[i] = egress_relaxed(slot + 8 * i)
        egress_fence_acquire()
        # The sequence never goes back, not when the slot is freed and taken again either.
        if egress_relaxed(slot + LIVE_SEQ) == seq:
            return 1
    return -1


cdef class Live:
    """A view of the live flows of a segment. Raises KeyError for a vocabulary without "stage", "verdict", "reason",
    "accept" or "evidence"; a number that is in none of them reads as "unknown"."""

    cdef Segment segment
    cdef Words stages_, verdicts, reasons, accepts, evidences
    cdef list keep
    cdef uint64_t _torn

    def __cinit__(self, Segment segment not None, dict vocabulary not None):
        self.segment = segment
        self.keep = []
        words_from(&self.stages_, vocabulary, "stage", self.keep)
        words_from(&self.verdicts, vocabulary, "verdict", self.keep)
        words_from(&self.reasons, vocabulary, "reason", self.keep)
        words_from(&self.accepts, vocabulary, "accept", self.keep)
        words_from(&self.evidences, vocabulary, "evidence", self.keep)

    @property
    def torn(self):
        """Slots skipped so far because no try got them whole."""
        return self._torn

    def flows(self, uint64_t limit=1000):
        """The newest `limit` live flows, in no order, as dictionaries with the keys of the decision log, and `worker` and
        `stage`."""
        cdef uint64_t copy[SLOT_WORDS]
        cdef const char *at = <const char *> copy
        cdef const char *table
        cdef uint32_t w, slot
        cdef uint64_t since = 0
        cdef uint8_t length, shown
        cdef int got
        rows = []
        starts = []
        for w in range(self.segment._workers):
            table = self.segment.live(w)
            for slot in range(self.segment.live_used(w)):
                # One word needs no lock. What changes between here and the second look is as good as new.
                if egress_u8(table + <uint64_t> slot * SIZE_LIVE_SLOT + LIVE_STAGE) != 0:
                    starts.append(egress_relaxed(table + <uint64_t> slot * SIZE_LIVE_SLOT + LIVE_START_UNIX_NS))
        if <uint64_t> len(starts) > limit > 0:
            since = nlargest(limit, starts)[limit - 1]
        for w in range(self.segment._workers):
            table = self.segment.live(w)
            for slot in range(self.segment.live_used(w)):
                if <uint64_t> len(rows) >= limit:
                    return rows
                got = take(table + <uint64_t> slot * SIZE_LIVE_SLOT, copy)
                if got <= 0:
                    self._torn += got < 0
                    continue
                if copy[LIVE_START_UNIX_NS // 8] < since:
                    continue
                length = min(<uint8_t> at[LIVE_NAME_LEN], <uint8_t> SIZE_LIVE_NAME)
                shown = min(<uint8_t> at[LIVE_IDENTITY_LEN], <uint8_t> SIZE_LIVE_IDENTITY)
                rows.append({
                    "decision": f"{copy[LIVE_FLOW_ID // 8]:016x}",
                    "worker": w,
                    "stage": word(&self.stages_, at[LIVE_STAGE]),
                    "verdict": word(&self.verdicts, at[LIVE_VERDICT]),
                    "reason": word(&self.reasons, at[LIVE_REASON]),
                    "accept": word(&self.accepts, at[LIVE_ACCEPT]),
                    "generation": copy[LIVE_GENERATION // 8],
                    "start_unix_ns": copy[LIVE_START_UNIX_NS // 8],
                    "bytes_up": copy[LIVE_BYTES_UP // 8],
                    "bytes_down": copy[LIVE_BYTES_DOWN // 8],
                    "rule": number(egress_u32(at + LIVE_RULE), EGRESS_NONE),
                    "rule_line": number(egress_u32(at + LIVE_RULE_LINE), 0),
                    "source": endpoint(at + LIVE_SOURCE, egress_u16(at + LIVE_SOURCE_PORT)),
                    "evidence": word(&self.evidences, at[LIVE_EVIDENCE]),
                    "identity": PyBytes_FromStringAndSize(at + LIVE_IDENTITY, shown).decode("ascii", "backslashreplace")
                    if shown else None,
                    "identity_cut": <uint8_t> at[LIVE_IDENTITY_LEN] > SIZE_LIVE_IDENTITY,
                    "name": PyBytes_FromStringAndSize(at + LIVE_NAME, length).decode("ascii", "backslashreplace")
                    if length else None,
                    "name_cut": <uint8_t> at[LIVE_NAME_LEN] > SIZE_LIVE_NAME,
                    "port": egress_u16(at + LIVE_PORT),
                    "upstream": None if address_is_none(at + LIVE_UPSTREAM)
                    else endpoint(at + LIVE_UPSTREAM, egress_u16(at + LIVE_UPSTREAM_PORT)),
                    "listener": egress_u16(at + LIVE_LISTENER),
                    "flags": egress_u32(at + LIVE_FLAGS),
                })
        return rows

    def stages(self):
        """Live flows by stage, one dictionary per worker; every stage but `free` is a key."""
        cdef uint64_t counts[256]
        cdef const char *slot
        cdef uint32_t w, i
        cdef int number
        rows = []
        for w in range(self.segment._workers):
            for number in range(256):
                counts[number] = 0
            for i in range(self.segment.live_used(w)):
                slot = self.segment.live(w) + <uint64_t> i * SIZE_LIVE_SLOT
                # A count needs no consistent slot: the stage is one byte, and the next look corrects it.
                counts[egress_u8(slot + LIVE_STAGE)] += 1
            row = {(<bytes> self.stages_.at[number]).decode(): counts[number]
                   for number in range(1, 255) if self.stages_.at[number] != NULL}
            unknown = sum([counts[number] for number in range(1, 256) if self.stages_.at[number] == NULL])
            if unknown:
                row["unknown"] = unknown
            rows.append(row)
        return rows


def worker_counters(Segment segment not None, names):
    """The counter page of each worker, by the names that the data plane gives the words (at most a page of them)."""
    return [page(segment.worker(w), names) for w in range(segment._workers)]


def resolver_counters(Segment segment not None, names):
    """The resolver's counter page."""
    return page(segment.base + segment.resolver_offset, names)


cdef dict page(const char *at, names):
    cdef int i
    if len(names) > SIZE_COUNTER_PAGE // 8:
        raise ValueError(f"{len(names)} counters on a page of {SIZE_COUNTER_PAGE // 8}")
    return {name: egress_relaxed(at + 8 * i) for i, name in enumerate(names)}


cdef str word(Words *words, char at):
    cdef const char *found = words.at[<uint8_t> at]
    return "unknown" if found == NULL else (<bytes> found).decode("ascii")


cdef object number(uint32_t value, uint32_t none):
    return None if value == none else value


cdef dict endpoint(const char *address, unsigned int port):
    cdef char text[46]
    address_text(address, text)
    return {"ip": (<bytes> text).decode("ascii"), "port": port}
