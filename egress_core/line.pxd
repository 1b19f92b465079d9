"""One line of the decision log, rendered into a growing buffer: no Python object per field, one check of room per line."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memcpy, strlen

cdef extern from "<arpa/inet.h>" nogil:
    const char *inet_ntop(int family, const void *address, char *text, unsigned int size)
    int AF_INET
    int AF_INET6

cdef enum:
    # Bytes that a line can take at most: 435 bytes of names at 6 each when all of them are escaped, two rules' names, the
    # keys, numbers of 20 digits and words of at most 32. It is also PIPE_BUF: a line goes into a pipe whole or not at all.
    LINE_MAX = 4096


ctypedef struct Text:
    char *bytes
    size_t len
    size_t room


cdef inline int text_reserve(Text *text, size_t more) noexcept nogil:
    """Makes room for `more` bytes; -1 when memory is out, with the text as it was."""
    cdef size_t room = text.room
    cdef char *grown
    if text.len + more <= room:
        return 0
    room = max(room * 2, text.len + more)
    grown = <char *> realloc(text.bytes, room)
    if grown == NULL:
        return -1
    text.bytes = grown
    text.room = room
    return 0


cdef inline void put(Text *text, const char *what) noexcept nogil:
    cdef size_t n = strlen(what)
    memcpy(text.bytes + text.len, what, n)
    text.len += n


cdef inline void put_u64(Text *text, uint64_t value) noexcept nogil:
    cdef char digits[20]
    cdef int at = 20
    while True:
        at -= 1
        digits[at] = <char> (48 + value % 10)
        value //= 10
        if value == 0:
            break
    memcpy(text.bytes + text.len, digits + at, 20 - at)
    text.len += 20 - at


cdef inline void put_padded(Text *text, uint64_t value, int width) noexcept nogil:
    """The last `width` decimal digits of `value`, zeros in front."""
    cdef int at = width
    while at > 0:
        at -= 1
        text.bytes[text.len + at] = <char> (48 + value % 10)
        value //= 10
    text.len += width


cdef inline void put_hex(Text *text, uint64_t value, int width) noexcept nogil:
    cdef const char *digits = b"0123456789abcdef"
    cdef int at = width
    while at > 0:
        at -= 1
        text.bytes[text.len + at] = digits[value & 15]
        value >>= 4
    text.len += width


cdef inline void put_escaped(Text *text, const char *what, size_t n) noexcept nogil:
    """A JSON string in plain ASCII: whatever a client sent, a log line stays one line and a terminal stays sane."""
    cdef size_t i
    cdef uint8_t byte
    text.bytes[text.len] = b'"'
    text.len += 1
    for i in range(n):
        byte = <uint8_t> what[i]
        if byte < 0x20 or byte >= 0x7f or byte == b'"' or byte == b'\\':
            put(text, b"\\u00")
            put_hex(text, byte, 2)
        else:
            text.bytes[text.len] = <char> byte
            text.len += 1
    text.bytes[text.len] = b'"'
    text.len += 1


cdef inline void put_name(Text *text, const char *what, size_t n) noexcept nogil:
    if n == 0:
        put(text, b"null")
    else:
        put_escaped(text, what, n)


cdef inline void put_rule(Text *text, const char *what, size_t n) noexcept nogil:
    """A rule's name needs no escapes: a byte that none can have is a fault of memory, and shown as a question mark."""
    cdef size_t i
    cdef uint8_t byte
    if n == 0:
        put(text, b"null")
        return
    put(text, b'"')
    for i in range(n):
        byte = <uint8_t> what[i]
        if 0x20 <= byte < 0x7f and byte != b'"' and byte != b'\\':
            text.bytes[text.len] = <char> byte
        else:
            text.bytes[text.len] = b"?"
        text.len += 1
    put(text, b'"')


cdef inline void put_ms(Text *text, uint64_t us) noexcept nogil:
    put_u64(text, us // 1000)
    put(text, b".")
    put_padded(text, us % 1000, 3)


cdef inline void put_step(Text *text, uint32_t us, uint32_t none) noexcept nogil:
    if us == none:
        put(text, b"null")
    else:
        put_ms(text, us)


cdef inline bint address_is_none(const char *address) noexcept nogil:
    cdef int i
    for i in range(16):
        if address[i] != 0:
            return False
    return True


cdef inline bint address_is_v4(const char *address) noexcept nogil:
    cdef int i
    for i in range(10):
        if address[i] != 0:
            return False
    return <uint8_t> address[10] == 0xff and <uint8_t> address[11] == 0xff


cdef inline void address_text(const char *address, char *out) noexcept nogil:
    """`out` has room for 46 bytes (INET6_ADDRSTRLEN)."""
    if address_is_v4(address):
        inet_ntop(AF_INET, address + 12, out, 46)
    else:
        inet_ntop(AF_INET6, address, out, 46)


cdef inline void put_endpoint(Text *text, const char *address, uint16_t port) noexcept nogil:
    cdef char out[46]
    cdef int i
    put(text, b'{"ip":"')
    if address_is_v4(address):
        # By hand: inet_ntop(3) formats with sprintf, a tenth of a line's whole cost.
        for i in range(12, 16):
            put_u64(text, <uint8_t> address[i])
            text.bytes[text.len] = b"."
            text.len += 1
        text.len -= 1
    else:
        address_text(address, out)
        put(text, out)
    put(text, b'","port":')
    put_u64(text, port)
    put(text, b"}")


cdef inline void put_time(Text *text, uint64_t unix_ns) noexcept nogil:
    """RFC 3339 in UTC with nanoseconds. The day is taken apart by the shift-to-March rule of the Gregorian calendar:
    years that begin in March have their leap day last, so a month's first day is a linear function of its number."""
    cdef uint64_t seconds = unix_ns // 1000000000
    cdef uint64_t days = seconds // 86400 + 719468
    cdef uint64_t era = days // 146097
    cdef uint64_t day_of_era = days % 146097
    cdef uint64_t year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096) // 365
    cdef uint64_t day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    cdef uint64_t shifted = (5 * day_of_year + 2) // 153
    cdef uint64_t month = shifted + 3 if shifted < 10 else shifted - 9
    cdef uint64_t of_day = seconds % 86400
    put_padded(text, era * 400 + year_of_era + (month <= 2), 4)
    put(text, b"-")
    put_padded(text, month, 2)
    put(text, b"-")
    put_padded(text, day_of_year - (153 * shifted + 2) // 5 + 1, 2)
    put(text, b"T")
    put_padded(text, of_day // 3600, 2)
    put(text, b":")
    put_padded(text, of_day // 60 % 60, 2)
    put(text, b":")
    put_padded(text, of_day % 60, 2)
    put(text, b".")
    put_padded(text, unix_ns % 1000000000, 9)
    put(text, b"Z")
