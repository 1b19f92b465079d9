"""The mapped segment, as the compiled modules share it."""

from libc.stdint cimport uint32_t, uint64_t

from egress_core.record cimport Words


cdef class Segment:
    cdef char *base
    cdef uint64_t size
    cdef uint64_t workers_offset, worker_stride, totals_offset, totals_size, resolver_offset
    cdef uint32_t _workers, _ring_capacity, _live_capacity
    cdef uint64_t _boot_unix_ns, _pid

    cdef char *worker(self, uint32_t index) noexcept nogil
    cdef char *live(self, uint32_t index) noexcept nogil
    cdef uint32_t live_used(self, uint32_t index) noexcept nogil


cdef int words_from(Words *words, dict vocabulary, str kind, list keep) except -1
