# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, embedsignature=False, auto_pickle=False
"""Reads the rings of finished flows and folds them into totals, without a Python object per record.

The memory is shared with the data plane and treated as hostile: every offset is checked once against the file's real
size and then kept here, every length and enum number is checked at each use, every loop has a bound of its own. What is
out of bounds is clamped and counted as a reader fault; it never crashes, loops or raises.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap
from posix.stat cimport fstat, struct_stat

from egress_core.layout cimport *
from egress_core.line cimport *
from egress_core.memory cimport *
from egress_core.record cimport Words, Words5, fold, render
from egress_core.totals cimport *

cdef extern from * nogil:
    """
    #include <fcntl.h>
    #ifndef F_GET_SEALS
    #define F_GET_SEALS 1034
    #define F_SEAL_SHRINK 2
    #endif
    /* 1 TiB: far above any real segment, and sums of offsets below it cannot overflow 64 bits. */
    #define MAX_SEGMENT (UINT64_C(1) << 40)
    static int egress_cannot_shrink(int fd)
    { int seals = fcntl(fd, F_GET_SEALS); return seals >= 0 && (seals & F_SEAL_SHRINK); }
    """
    int egress_cannot_shrink(int fd)
    const uint64_t MAX_SEGMENT

cdef enum:
    # Records in one ring: 8 GiB of them.
    MAX_RING = 1 << 24

#: Upper bounds of the histograms' buckets in microseconds; the last bucket has none.
DURATION_BOUNDS_US = tuple([EGRESS_DURATION_US[i] for i in range(TOTALS_BOUNDS)])
STEP_BOUNDS_US = tuple([EGRESS_STEP_US[i] for i in range(TOTALS_BOUNDS)])
#: The longest line of the decision log, in bytes with its newline.
LINE_BYTES = LINE_MAX


class SegmentError(ValueError):
    """The descriptor does not hold a telemetry segment of this version; the text says in which respect."""


cdef int words_from(Words *words, dict vocabulary, str kind, list keep) except -1:
    """Fills `words`; `keep` holds the bytes that they point into, and must live as long."""
    cdef bytes text
    memset(words, 0, sizeof(Words))
    for number, word in vocabulary[kind].items():
        text = word.encode("ascii")
        if not 0 <= number < 255 or not 1 <= len(text) <= 32 or not text.replace(b"_", b"").isalnum():
            raise ValueError(f"vocabulary {kind}: {number!r} = {word!r}")
        keep.append(text)
        words.at[<int> number] = text
    return 0


cdef class Segment:
    """A telemetry segment, mapped. The mapping lives as long as this object; the descriptor may be closed at once.

    Raises SegmentError when the header lies, OSError when the kernel refuses. The file must be sealed against
    shrinking (memfd_create(2), F_SEAL_SHRINK): else the other side could turn any access here into SIGBUS.
    """

    def __cinit__(self, int fd):
        cdef struct_stat status
        cdef void *at
        cdef const char *h
        cdef uint64_t start[3]
        cdef uint64_t length[3]
        cdef uint64_t least
        cdef int i, j
        if fstat(fd, &status) != 0:
            raise OSError(f"fstat of descriptor {fd} failed")
        if status.st_size < SIZE_HEADER:
            raise SegmentError(f"{status.st_size} bytes are too few for a header")
        if <uint64_t> status.st_size > MAX_SEGMENT:
            raise SegmentError(f"{status.st_size} bytes are too many")
        if not egress_cannot_shrink(fd):
            raise SegmentError("the file is not sealed against shrinking")
        at = mmap(NULL, <size_t> status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
        if at == MAP_FAILED:
            raise OSError(f"mmap of {status.st_size} bytes failed")
        self.base = <char *> at
        self.size = <uint64_t> status.st_size
        h = self.base
        if egress_acquire(h + HEADER_MAGIC) != EGRESS_MAGIC:
            raise SegmentError("no magic")
        for offset, name, expected in (
                (HEADER_VERSION, "version", LAYOUT_VERSION), (HEADER_HEADER_SIZE, "header size", SIZE_HEADER),
                (HEADER_RECORD_SIZE, "record size", SIZE_RECORD),
                (HEADER_LIVE_SLOT_SIZE, "live slot size", SIZE_LIVE_SLOT)):
            if egress_u32(h + <int> offset) != <uint32_t> expected:
                raise SegmentError(f"{name} is {egress_u32(h + <int> offset)}, expected {expected}")
        self._workers = egress_u32(h + HEADER_WORKERS)
        self._ring_capacity = egress_u32(h + HEADER_RING_CAPACITY)
        self._live_capacity = egress_u32(h + HEADER_LIVE_CAPACITY)
        self.worker_stride = egress_relaxed(h + HEADER_WORKER_STRIDE)
        self.workers_offset = egress_relaxed(h + HEADER_WORKERS_OFFSET)
        self.totals_offset = egress_relaxed(h + HEADER_TOTALS_OFFSET)
        self.totals_size = egress_relaxed(h + HEADER_TOTALS_SIZE)
        self.resolver_offset = egress_relaxed(h + HEADER_RESOLVER_OFFSET)
        self._boot_unix_ns = egress_relaxed(h + HEADER_BOOT_UNIX_NS)
        self._pid = egress_relaxed(h + HEADER_PID)
        if not 1 <= self._workers <= TOTALS_MAX_WORKERS:
            raise SegmentError(f"{self._workers} workers")
        if not 1 <= self._ring_capacity <= MAX_RING or self._ring_capacity & (self._ring_capacity - 1):
            raise SegmentError(f"a ring of {self._ring_capacity} records is not a power of two up to {MAX_RING}")
        if egress_relaxed(h + HEADER_TOTAL_SIZE) > self.size:
            raise SegmentError(f"total size {egress_relaxed(h + HEADER_TOTAL_SIZE)} of a file of {self.size}")
        least = (<uint64_t> SIZE_COUNTER_PAGE + SIZE_RING_CONTROL + <uint64_t> self._ring_capacity * SIZE_RECORD
                 + <uint64_t> self._live_capacity * SIZE_LIVE_SLOT)
        if self.worker_stride < least or self.worker_stride > self.size:
            raise SegmentError(f"worker stride {self.worker_stride}, needed {least}")
        start[0], length[0] = self.workers_offset, self._workers * self.worker_stride
        start[1], length[1] = self.resolver_offset, SIZE_COUNTER_PAGE
        start[2], length[2] = self.totals_offset, self.totals_size
        for i in range(3):
            if (start[i] < SIZE_HEADER or start[i] > self.size or length[i] > self.size - start[i]
                    or start[i] & 63 or self.worker_stride & 63):
                raise SegmentError(f"region {i} at {start[i]}, {length[i]} bytes, is not within {self.size}")
            for j in range(i):
                if start[i] < start[j] + length[j] and start[j] < start[i] + length[i]:
                    raise SegmentError(f"regions {j} and {i} overlap")

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.size)

    cdef char *worker(self, uint32_t index) noexcept nogil:
        return self.base + self.workers_offset + index * self.worker_stride

    cdef char *live(self, uint32_t index) noexcept nogil:
        return (self.worker(index) + SIZE_COUNTER_PAGE + SIZE_RING_CONTROL
                + <uint64_t> self._ring_capacity * SIZE_RECORD)

    cdef uint32_t live_used(self, uint32_t index) noexcept nogil:
        """Slots of a worker's live table that were ever written: beyond them a look would only fill holes of the file
        with pages."""
        return <uint32_t> min(egress_relaxed(self.worker(index) + WORKER_LIVE_USED), <uint64_t> self._live_capacity)

    @property
    def workers(self):
        return self._workers

    @property
    def ring_capacity(self):
        return self._ring_capacity

    @property
    def live_capacity(self):
        return self._live_capacity

    @property
    def boot_unix_ns(self):
        return self._boot_unix_ns

    @property
    def pid(self):
        return self._pid


# A worker's ring as the reader sees it. Positions count records since boot; they are ours, the shared words publish them.
ctypedef struct Lane:
    char *control
    char *records
    uint64_t *kept          # folded, logged: in the totals region, where they outlive this process
    uint64_t folded
    uint64_t logged
    uint64_t rendered       # the end of what `encode` rendered and `commit` has not taken over


cdef class Reader:
    """The one reader of a segment. Not thread-safe, and two at once would fold every record twice.

    A record leaves the ring when it is folded and, while the log is on, logged; so after a kill at any instruction the
    totals count each record once (one per worker may count twice) and each line is in the log at least once.
    """

    cdef Segment segment
    cdef Lane *lanes
    cdef Table table
    cdef Text text
    cdef Words5 words
    cdef list keep
    cdef uint32_t turn
    cdef bint _log
    cdef readonly uint64_t encoded

    def __cinit__(self, Segment segment not None, dict vocabulary not None, *, bint log=True):
        cdef uint32_t i
        cdef Lane *lane
        cdef uint64_t tail, head
        cdef int fresh
        self.segment = segment
        self.keep = []
        words_from(&self.words.verdicts, vocabulary, "verdict", self.keep)
        words_from(&self.words.reasons, vocabulary, "reason", self.keep)
        words_from(&self.words.ends, vocabulary, "end", self.keep)
        words_from(&self.words.accepts, vocabulary, "accept", self.keep)
        words_from(&self.words.evidences, vocabulary, "evidence", self.keep)
        self._log = log
        self.lanes = <Lane *> calloc(segment._workers, sizeof(Lane))
        if self.lanes == NULL:
            raise MemoryError
        fresh = table_open(&self.table, segment.base + segment.totals_offset, segment.totals_size, segment._workers,
                           segment._boot_unix_ns)
        if fresh < 0:
            raise SegmentError(f"a totals region of {segment.totals_size} bytes is too small")
        for i in range(segment._workers):
            lane = &self.lanes[i]
            lane.control = segment.worker(i) + SIZE_COUNTER_PAGE
            lane.records = lane.control + SIZE_RING_CONTROL
            lane.kept = <uint64_t *> (<char *> self.table.header + TOTALS_POSITIONS) + 2 * i
            head = egress_acquire(lane.control + RING_HEAD)
            tail = egress_relaxed(lane.control + RING_TAIL)
            if head - tail > segment._ring_capacity:
                self.table.header.faults += 1
                tail = head
            lane.folded = self.resume(lane.kept[0], tail, head, fresh)
            lane.logged = self.resume(lane.kept[1], tail, head, fresh) if log else lane.folded
            lane.rendered = lane.logged
            self.publish(lane)
        # Last, so that `attaches` tells of a table whose layout is whole.
        self.table.header.attaches += 1
        self.table.header.magic = TOTALS_MAGIC

    def __dealloc__(self):
        free(self.lanes)
        free(self.text.bytes)

    cdef uint64_t resume(self, uint64_t kept, uint64_t tail, uint64_t head, bint fresh) noexcept nogil:
        """Where to go on: what was kept, if it lies between tail and head; else from the tail, which repeats."""
        if fresh:
            return tail
        if kept - tail > head - tail:
            self.table.header.faults += 1
            return tail
        return kept

    cdef void publish(self, Lane *lane) noexcept nogil:
        """Gives the writer room up to what is both folded and logged."""
        cdef uint64_t tail = lane.folded
        if not self._log:
            lane.logged = lane.folded
        elif lane.folded - lane.logged < <uint64_t> 1 << 63:
            tail = lane.logged
        lane.kept[0] = lane.folded
        lane.kept[1] = lane.logged
        egress_release(lane.control + RING_TAIL, tail)

    cdef uint64_t waiting(self, Lane *lane, uint64_t position) noexcept nogil:
        """Records from `position` on. A head that cannot be (behind us, or a lap ahead) is a fault: we go on from it,
        which is where the writer will publish its next record or, if the word was scribbled over, meet us again."""
        cdef uint64_t head = egress_acquire(lane.control + RING_HEAD)
        cdef uint64_t n = head - position
        if n > self.segment._ring_capacity:
            self.table.header.faults += 1
            lane.folded = lane.logged = lane.rendered = head
            self.publish(lane)
            return 0
        return n

    def drain(self, uint64_t limit):
        """Folds up to `limit` new records of all workers into the totals; gives how many it folded."""
        cdef uint64_t done = 0, n, i, mask = self.segment._ring_capacity - 1
        cdef uint32_t w
        cdef Lane *lane
        self.turn = (self.turn + 1) % self.segment._workers
        for w in range(self.segment._workers):
            lane = &self.lanes[(self.turn + w) % self.segment._workers]
            n = min(self.waiting(lane, lane.folded), limit - done)
            for i in range(n):
                # Four records ahead: the two cache lines with numbers and the two with names.
                egress_prefetch(lane.records + ((lane.folded + 4) & mask) * SIZE_RECORD)
                egress_prefetch(lane.records + ((lane.folded + 4) & mask) * SIZE_RECORD + 64)
                egress_prefetch(lane.records + ((lane.folded + 4) & mask) * SIZE_RECORD + 384)
                egress_prefetch(lane.records + ((lane.folded + 4) & mask) * SIZE_RECORD + 448)
                fold(&self.table, &self.words, lane.records + (lane.folded & mask) * SIZE_RECORD)
                lane.folded += 1
                # After each record: this is the position that a restart goes on from.
                egress_compiler_fence()
                lane.kept[0] = lane.folded
                egress_compiler_fence()
            self.publish(lane)
            done += n
            if done == limit:
                break
        return done

    def encode(self, uint64_t limit):
        """Up to `limit` records that are not logged yet as lines of JSON. The same again until `commit`; empty when
        the log is off. MemoryError leaves all positions as they were."""
        cdef uint64_t done = 0, n, i, mask = self.segment._ring_capacity - 1
        cdef uint32_t w
        cdef Lane *lane
        self.text.len = 0
        self.encoded = 0
        for w in range(self.segment._workers):
            lane = &self.lanes[w]
            lane.rendered = lane.logged
        if not self._log:
            return b""
        for w in range(self.segment._workers):
            lane = &self.lanes[(self.turn + w) % self.segment._workers]
            n = min(self.waiting(lane, lane.logged), limit - done)
            for i in range(n):
                if text_reserve(&self.text, LINE_MAX) != 0:
                    raise MemoryError
                render(&self.text, &self.words, lane.records + ((lane.logged + i) & mask) * SIZE_RECORD)
            lane.rendered = lane.logged + n
            done += n
        self.encoded = done
        return PyBytes_FromStringAndSize(self.text.bytes, self.text.len)

    def commit(self):
        """What `encode` gave last is written: those records may leave the ring."""
        cdef uint32_t w
        cdef Lane *lane
        for w in range(self.segment._workers):
            lane = &self.lanes[w]
            lane.logged = lane.rendered
            self.publish(lane)

    @property
    def log(self):
        """Whether the log holds records back. Switched on later, it begins with the records not folded yet."""
        return self._log

    @log.setter
    def log(self, bint on):
        cdef uint32_t w
        for w in range(self.segment._workers):
            self.publish(&self.lanes[w])
            self.lanes[w].rendered = self.lanes[w].logged
        self._log = on

    def backlog(self):
        """(records to fold, records to log), of all workers, now."""
        cdef uint64_t fold = 0, log = 0
        cdef uint32_t w
        for w in range(self.segment._workers):
            fold += self.waiting(&self.lanes[w], self.lanes[w].folded)
            if self._log:
                log += self.waiting(&self.lanes[w], self.lanes[w].logged)
        return fold, log

    def dropped(self):
        """Records that the writers lost because their ring was full, by worker."""
        return [egress_relaxed(self.lanes[w].control + RING_DROPPED) for w in range(self.segment._workers)]

    @property
    def faults(self):
        """Values that could not be what the data plane wrote, since boot."""
        return self.table.header.faults

    @property
    def attaches(self):
        """How often a reader attached to this segment: 1 plus the restarts of the control plane."""
        return self.table.header.attaches

    @property
    def overflowed(self):
        """Records counted under `other` because every combination of labels was taken."""
        return self.table.header.overflowed

    @property
    def combinations(self):
        """(combinations of labels in use, most that are told apart)."""
        return self.table.used, self.table.limit

    def totals(self):
        """(rule, listener, verdict, reason, end, connections, bytes_up, bytes_down) per combination; "other" in every
        label is the entry for all combinations beyond the limit."""
        cdef uint64_t i
        cdef EgressEntry *entry
        rows = []
        for i in range(self.table.slots + 1):
            entry = &self.table.entries[i]
            if entry.state != 1:
                continue
            if i == 0:
                labels = ("other",) * 5
            else:
                labels = (label(entry.rule, entry.rule_len, SIZE_RULE_NAME),
                          label(entry.listener, entry.listener_len, SIZE_LISTENER_NAME),
                          word_text(self.words.verdicts.at[entry.verdict]), word_text(self.words.reasons.at[entry.reason]),
                          word_text(self.words.ends.at[entry.end]))
            rows.append((*labels, entry.connections, entry.bytes_up, entry.bytes_down))
        return rows

    def histograms(self):
        """Of all flows: "duration", "first_bytes", "resolve", "connect" → (observations per bucket, sum in µs)."""
        cdef uint64_t sums[4][TOTALS_BOUNDS + 2]
        cdef EgressHistogram *four[4]
        cdef uint64_t i
        cdef int k, b
        memset(sums, 0, sizeof(sums))
        for i in range(self.table.slots + 1):
            if self.table.entries[i].state != 1:
                continue
            four[0] = &self.table.entries[i].duration
            four[1] = &self.table.entries[i].first_bytes
            four[2] = &self.table.entries[i].resolve
            four[3] = &self.table.entries[i].connect
            for k in range(4):
                for b in range(TOTALS_BOUNDS + 1):
                    sums[k][b] += four[k].bucket[b]
                sums[k][TOTALS_BOUNDS + 1] += four[k].sum_us
        return {name: ([sums[k][b] for b in range(TOTALS_BOUNDS + 1)], sums[k][TOTALS_BOUNDS + 1])
                for k, name in enumerate(("duration", "first_bytes", "resolve", "connect"))}


cdef str word_text(const char *word):
    return "unknown" if word == NULL else (<bytes> word).decode("ascii")


cdef str label(const char *at, uint8_t length, int room):
    return PyBytes_FromStringAndSize(at, min(<int> length, room)).decode("ascii", "backslashreplace")


def layout():
    """Every offset and size that this module was compiled with, by the data plane's name for it."""
    return {
        "header.magic": HEADER_MAGIC, "header.version": HEADER_VERSION, "header.header_size": HEADER_HEADER_SIZE,
        "header.record_size": HEADER_RECORD_SIZE, "header.live_slot_size": HEADER_LIVE_SLOT_SIZE,
        "header.workers": HEADER_WORKERS, "header.ring_capacity": HEADER_RING_CAPACITY,
        "header.live_capacity": HEADER_LIVE_CAPACITY, "header.worker_stride": HEADER_WORKER_STRIDE,
        "header.workers_offset": HEADER_WORKERS_OFFSET, "header.totals_offset": HEADER_TOTALS_OFFSET,
        "header.totals_size": HEADER_TOTALS_SIZE, "header.boot_unix_ns": HEADER_BOOT_UNIX_NS,
        "header.pid": HEADER_PID, "header.resolver_offset": HEADER_RESOLVER_OFFSET,
        "header.total_size": HEADER_TOTAL_SIZE, "worker.live_used": WORKER_LIVE_USED,
        "ring.head": RING_HEAD, "ring.dropped": RING_DROPPED, "ring.tail": RING_TAIL,
        "record.flow_id": RECORD_FLOW_ID, "record.generation": RECORD_GENERATION,
        "record.start_unix_ns": RECORD_START_UNIX_NS, "record.duration_ns": RECORD_DURATION_NS,
        "record.bytes_up": RECORD_BYTES_UP, "record.bytes_down": RECORD_BYTES_DOWN,
        "record.first_bytes_us": RECORD_FIRST_BYTES_US, "record.resolve_us": RECORD_RESOLVE_US,
        "record.connect_us": RECORD_CONNECT_US, "record.rule_line": RECORD_RULE_LINE, "record.source": RECORD_SOURCE,
        "record.upstream": RECORD_UPSTREAM, "record.source_port": RECORD_SOURCE_PORT,
        "record.upstream_port": RECORD_UPSTREAM_PORT, "record.port": RECORD_PORT, "record.verdict": RECORD_VERDICT,
        "record.reason": RECORD_REASON, "record.end": RECORD_END, "record.accept": RECORD_ACCEPT,
        "record.listener": RECORD_LISTENER, "record.flags": RECORD_FLAGS, "record.rule": RECORD_RULE,
        "record.name_len": RECORD_NAME_LEN, "record.rule_len": RECORD_RULE_LEN,
        "record.listener_len": RECORD_LISTENER_LEN, "record.other_len": RECORD_OTHER_LEN, "record.name": RECORD_NAME,
        "record.rule_name": RECORD_RULE_NAME, "record.listener_name": RECORD_LISTENER_NAME,
        "record.other": RECORD_OTHER, "record.evidence": RECORD_EVIDENCE,
        "record.identity_len": RECORD_IDENTITY_LEN, "record.peer_port": RECORD_PEER_PORT, "record.peer": RECORD_PEER,
        "record.identity": RECORD_IDENTITY, "record.held_up_ns": RECORD_HELD_UP_NS,
        "record.held_down_ns": RECORD_HELD_DOWN_NS, "record.waited_us": RECORD_WAITED_US,
        "record.held_by_len": RECORD_HELD_BY_LEN, "record.held_by": RECORD_HELD_BY, "live.seq": LIVE_SEQ, "live.flow_id": LIVE_FLOW_ID,
        "live.generation": LIVE_GENERATION, "live.start_unix_ns": LIVE_START_UNIX_NS, "live.bytes_up": LIVE_BYTES_UP,
        "live.bytes_down": LIVE_BYTES_DOWN, "live.rule": LIVE_RULE, "live.stage": LIVE_STAGE,
        "live.verdict": LIVE_VERDICT, "live.reason": LIVE_REASON, "live.name_len": LIVE_NAME_LEN,
        "live.source": LIVE_SOURCE, "live.upstream": LIVE_UPSTREAM, "live.source_port": LIVE_SOURCE_PORT,
        "live.upstream_port": LIVE_UPSTREAM_PORT, "live.port": LIVE_PORT, "live.listener": LIVE_LISTENER,
        "live.flags": LIVE_FLAGS, "live.accept": LIVE_ACCEPT, "live.rule_line": LIVE_RULE_LINE,
        "live.evidence": LIVE_EVIDENCE, "live.identity_len": LIVE_IDENTITY_LEN, "live.identity": LIVE_IDENTITY,
        "live.name": LIVE_NAME, "size.header": SIZE_HEADER, "size.counter_page": SIZE_COUNTER_PAGE,
        "size.ring_control": SIZE_RING_CONTROL, "size.record": SIZE_RECORD, "size.live_slot": SIZE_LIVE_SLOT,
        "size.name": SIZE_NAME, "size.live_name": SIZE_LIVE_NAME, "size.rule_name": SIZE_RULE_NAME,
        "size.listener_name": SIZE_LISTENER_NAME, "size.other": SIZE_OTHER, "size.identity": SIZE_IDENTITY,
        "size.live_identity": SIZE_LIVE_IDENTITY, "size.totals": SIZE_TOTALS,
    }
