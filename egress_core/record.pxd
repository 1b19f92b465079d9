"""What is done with one record: added to the totals, or rendered as a line. Lengths and numbers are checked here."""

from libc.stdint cimport uint8_t, uint32_t

from egress_core.layout cimport *
from egress_core.line cimport *
from egress_core.memory cimport *
from egress_core.totals cimport *

# The words of one vocabulary by their number; NULL where no version wrote that number (255 always is).
ctypedef struct Words:
    const char *at[256]

# The vocabularies of a record.
ctypedef struct Words5:
    Words verdicts
    Words reasons
    Words ends
    Words accepts
    Words evidences


cdef inline void fold(Table *table, Words5 *words, const char *record) noexcept nogil:
    cdef uint8_t verdict = egress_u8(record + RECORD_VERDICT)
    cdef uint8_t reason = egress_u8(record + RECORD_REASON)
    cdef uint8_t end = egress_u8(record + RECORD_END)
    cdef uint8_t rule_len = egress_u8(record + RECORD_RULE_LEN)
    cdef uint8_t listener_len = egress_u8(record + RECORD_LISTENER_LEN)
    cdef uint32_t us
    cdef bint fault = False
    cdef EgressEntry *entry
    if words.verdicts.at[verdict] == NULL:
        verdict, fault = 255, True
    if words.reasons.at[reason] == NULL:
        reason, fault = 255, True
    if words.ends.at[end] == NULL:
        end, fault = 255, True
    if words.accepts.at[egress_u8(record + RECORD_ACCEPT)] == NULL or egress_u8(record + RECORD_OTHER_LEN) > SIZE_OTHER:
        fault = True
    if egress_u8(record + RECORD_HELD_BY_LEN) > SIZE_RULE_NAME:
        fault = True
    if (words.evidences.at[egress_u8(record + RECORD_EVIDENCE)] == NULL
            or egress_u8(record + RECORD_IDENTITY_LEN) > SIZE_IDENTITY):
        fault = True
    if rule_len > SIZE_RULE_NAME:
        rule_len, fault = SIZE_RULE_NAME, True
    if listener_len > SIZE_LISTENER_NAME:
        listener_len, fault = SIZE_LISTENER_NAME, True
    table.header.faults += fault
    entry = table_entry(table, verdict | <uint32_t> reason << 8 | <uint32_t> end << 16,
                        record + RECORD_RULE_NAME, rule_len, record + RECORD_LISTENER_NAME, listener_len)
    entry.connections += 1
    entry.bytes_up += egress_relaxed(record + RECORD_BYTES_UP)
    entry.bytes_down += egress_relaxed(record + RECORD_BYTES_DOWN)
    egress_observe(&entry.duration, EGRESS_DURATION_US, egress_relaxed(record + RECORD_DURATION_NS) // 1000)
    us = egress_u32(record + RECORD_FIRST_BYTES_US)
    if us != EGRESS_NONE:
        egress_observe(&entry.first_bytes, EGRESS_STEP_US, us)
    us = egress_u32(record + RECORD_RESOLVE_US)
    if us != EGRESS_NONE:
        egress_observe(&entry.resolve, EGRESS_STEP_US, us)
    us = egress_u32(record + RECORD_CONNECT_US)
    if us != EGRESS_NONE:
        egress_observe(&entry.connect, EGRESS_STEP_US, us)


cdef inline void put_word(Text *text, const char *word) noexcept nogil:
    if word == NULL:
        put(text, b"unknown")
    else:
        put(text, word)


cdef inline void put_flag(Text *text, uint32_t on, const char *word) noexcept nogil:
    if on:
        put(text, word)


cdef inline void render(Text *t, Words5 *words, const char *record) noexcept nogil:
    """One line; `t` has room for it. Keys and their order are documented in docs/reference/decision-log.md."""
    cdef uint32_t flags = egress_u32(record + RECORD_FLAGS)
    cdef uint32_t bit
    cdef size_t before
    put(t, b'{"time":"')
    put_time(t, egress_relaxed(record + RECORD_START_UNIX_NS))
    put(t, b'","decision":"')
    put_hex(t, egress_relaxed(record + RECORD_FLOW_ID), 16)
    put(t, b'","verdict":"')
    put_word(t, words.verdicts.at[egress_u8(record + RECORD_VERDICT)])
    put(t, b'","reason":"')
    put_word(t, words.reasons.at[egress_u8(record + RECORD_REASON)])
    put(t, b'","rule":')
    put_rule(t, record + RECORD_RULE_NAME, min(<int> egress_u8(record + RECORD_RULE_LEN), <int> SIZE_RULE_NAME))
    put(t, b',"rule_line":')
    bit = egress_u32(record + RECORD_RULE_LINE)
    if bit == 0:
        put(t, b"null")
    else:
        put_u64(t, bit)
    put(t, b',"generation":')
    put_u64(t, egress_relaxed(record + RECORD_GENERATION))
    put(t, b',"listener":')
    put_name(t, record + RECORD_LISTENER_NAME,
             min(<int> egress_u8(record + RECORD_LISTENER_LEN), <int> SIZE_LISTENER_NAME))
    put(t, b',"accept":"')
    put_word(t, words.accepts.at[egress_u8(record + RECORD_ACCEPT)])
    put(t, b'","source":')
    put_endpoint(t, record + RECORD_SOURCE, egress_u16(record + RECORD_SOURCE_PORT))
    put(t, b',"peer":')
    if address_is_none(record + RECORD_PEER):
        put(t, b"null")
    else:
        put_endpoint(t, record + RECORD_PEER, egress_u16(record + RECORD_PEER_PORT))
    put(t, b',"evidence":"')
    put_word(t, words.evidences.at[egress_u8(record + RECORD_EVIDENCE)])
    put(t, b'","identity":')
    put_name(t, record + RECORD_IDENTITY, min(<int> egress_u8(record + RECORD_IDENTITY_LEN), <int> SIZE_IDENTITY))
    put(t, b',"name":')
    put_name(t, record + RECORD_NAME, egress_u8(record + RECORD_NAME_LEN))
    put(t, b',"port":')
    put_u64(t, egress_u16(record + RECORD_PORT))
    put(t, b',"upstream":')
    if address_is_none(record + RECORD_UPSTREAM):
        put(t, b"null")
    else:
        put_endpoint(t, record + RECORD_UPSTREAM, egress_u16(record + RECORD_UPSTREAM_PORT))
    put(t, b',"bytes_up":')
    put_u64(t, egress_relaxed(record + RECORD_BYTES_UP))
    put(t, b',"bytes_down":')
    put_u64(t, egress_relaxed(record + RECORD_BYTES_DOWN))
    put(t, b',"duration_ms":')
    put_ms(t, egress_relaxed(record + RECORD_DURATION_NS) // 1000)
    put(t, b',"first_bytes_ms":')
    put_step(t, egress_u32(record + RECORD_FIRST_BYTES_US), EGRESS_NONE)
    put(t, b',"resolve_ms":')
    put_step(t, egress_u32(record + RECORD_RESOLVE_US), EGRESS_NONE)
    put(t, b',"connect_ms":')
    put_step(t, egress_u32(record + RECORD_CONNECT_US), EGRESS_NONE)
    put(t, b',"waited_ms":')
    put_step(t, egress_u32(record + RECORD_WAITED_US), EGRESS_NONE)
    put(t, b',"held":')
    if egress_u8(record + RECORD_HELD_BY_LEN) == 0:
        put(t, b"null")
    else:
        put(t, b'{"by":')
        put_rule(t, record + RECORD_HELD_BY, min(<int> egress_u8(record + RECORD_HELD_BY_LEN), <int> SIZE_RULE_NAME))
        put(t, b',"up_ms":')
        put_ms(t, egress_relaxed(record + RECORD_HELD_UP_NS) // 1000)
        put(t, b',"down_ms":')
        put_ms(t, egress_relaxed(record + RECORD_HELD_DOWN_NS) // 1000)
        put(t, b"}")
    put(t, b',"end":"')
    put_word(t, words.ends.at[egress_u8(record + RECORD_END)])
    put(t, b'","flags":[')
    before = t.len
    put_flag(t, flags & 1, b'"ech",')
    put_flag(t, flags & 2, b'"by_address",')
    put_flag(t, flags & 4, b'"stale",')
    put_flag(t, flags & 8, b'"audit",')
    put_flag(t, flags & 16, b'"spliced",')
    put_flag(t, flags & 32, b'"dns_name",')
    t.len -= t.len > before
    put(t, b'],"other_name":')
    put_name(t, record + RECORD_OTHER, min(<int> egress_u8(record + RECORD_OTHER_LEN), <int> SIZE_OTHER))
    put(t, b"}\n")
