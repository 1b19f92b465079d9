"""Loads and stores on memory that another process writes at the same time, and the clock of a log line.

Words that carry order (head, tail, seq) go through acquire and release; the rest through relaxed atomics or memcpy,
so that the compiler neither tears nor repeats an access to memory that may change under it.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from *:
    """
    #ifndef EGRESS_MEMORY_H
    #define EGRESS_MEMORY_H
    #include <stdint.h>
    #include <string.h>
    #define EGRESS_MAGIC UINT64_C(0x4d54535345524745)  /* b"EGRESSTM", little-endian */
    #define EGRESS_NONE UINT32_C(0xffffffff)           /* "did not happen" in a 32-bit field */

    static inline uint64_t egress_acquire(const void *at)
    { return __atomic_load_n((const uint64_t *)at, __ATOMIC_ACQUIRE); }
    static inline uint64_t egress_relaxed(const void *at)
    { return __atomic_load_n((const uint64_t *)at, __ATOMIC_RELAXED); }
    static inline void egress_release(void *at, uint64_t value)
    { __atomic_store_n((uint64_t *)at, value, __ATOMIC_RELEASE); }
    static inline void egress_fence_acquire(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
    /* The compiler moves no access over this. That is all it takes against a kill between two instructions: what a
       process stored before it died is seen in the order in which it was stored. */
    static inline void egress_compiler_fence(void) { __atomic_signal_fence(__ATOMIC_SEQ_CST); }
    static inline void egress_prefetch(const void *at) { __builtin_prefetch(at, 0, 1); }

    static inline uint8_t egress_u8(const void *at) { return *(const volatile uint8_t *)at; }
    static inline uint16_t egress_u16(const void *at) { uint16_t v; memcpy(&v, at, 2); return v; }
    static inline uint32_t egress_u32(const void *at) { return __atomic_load_n((const uint32_t *)at, __ATOMIC_RELAXED); }
    #endif
    """
    const uint64_t EGRESS_MAGIC
    const uint32_t EGRESS_NONE
    uint64_t egress_acquire(const void *at) noexcept nogil
    uint64_t egress_relaxed(const void *at) noexcept nogil
    void egress_release(void *at, uint64_t value) noexcept nogil
    void egress_fence_acquire() noexcept nogil
    void egress_compiler_fence() noexcept nogil
    void egress_prefetch(const void *at) noexcept nogil
    uint8_t egress_u8(const void *at) noexcept nogil
    uint16_t egress_u16(const void *at) noexcept nogil
    uint32_t egress_u32(const void *at) noexcept nogil
