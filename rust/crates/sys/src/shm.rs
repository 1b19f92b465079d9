//! Shared memory: the telemetry segment that both processes write, and sealed snapshots that nobody can write.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicU64;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

/// A zero-filled memfd mapped read-write for the life of the process, as words that both processes access atomically.
#[derive(Debug)]
pub struct SharedMemory {
    fd: OwnedFd,
    words: &'static [AtomicU64],
}

impl SharedMemory {
    /// Creates and maps `bytes` (rounded up to whole words) of memory; pages are taken only when touched.
    /// The size is sealed, so that the other process cannot turn our accesses into SIGBUS by truncating it.
    pub fn create(name: &str, bytes: usize) -> io::Result<Self> {
        let bytes = bytes.next_multiple_of(8).max(8);
        let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&fd, bytes as u64)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing; it is never unmapped, so the
        // 'static slice stays valid; AtomicU64 has no invalid bit patterns, mmap aligns to a page, and accesses by the
        // other process are data races only between atomics.
        let words = unsafe {
            let start = rustix::mm::mmap(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &fd,
                0,
            )?;
            std::slice::from_raw_parts(start.cast::<AtomicU64>(), bytes / 8)
        };
        Ok(Self { fd, words })
    }

    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    pub fn words(&self) -> &'static [AtomicU64] {
        self.words
    }
}

/// A read-only view of a memfd whose size and content are sealed, so that `&[u8]` is sound.
#[derive(Debug)]
pub struct SealedMap {
    start: *const u8,
    len: usize,
}

// SAFETY: the memory is immutable for as long as it is mapped (see `map`), so it may be read from any thread.
unsafe impl Send for SealedMap {}
// SAFETY: as for Send.
unsafe impl Sync for SealedMap {}

/// The seals without which the content could still change under a reader (memfd_create(2), F_ADD_SEALS).
const IMMUTABLE: SealFlags = SealFlags::WRITE.union(SealFlags::SHRINK).union(SealFlags::GROW);

impl SealedMap {
    /// Maps a descriptor that came from elsewhere; refuses one that is not sealed or larger than `max` bytes.
    pub fn map(fd: impl AsFd, max: usize) -> io::Result<Self> {
        let seals = rustix::fs::fcntl_get_seals(&fd)?;
        if !seals.contains(IMMUTABLE) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the descriptor is not sealed",
            ));
        }
        let size = u64::try_from(rustix::fs::fstat(&fd)?.st_size).unwrap_or(0);
        let len =
            usize::try_from(size).ok().filter(|len| (1..=max).contains(len)).ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("a size of {size} bytes is not between 1 and {max}"),
                )
            })?;
        // SAFETY: a fresh private read-only mapping of a file that the seals make immutable in size and content.
        let start = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), len, ProtFlags::READ, MapFlags::PRIVATE, &fd, 0)?
        };
        Ok(Self { start: start.cast::<u8>(), len })
    }
}

impl AsRef<[u8]> for SealedMap {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `start..start+len` is mapped until drop and immutable (see `map`).
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl Drop for SealedMap {
    fn drop(&mut self) {
        // SAFETY: this is our own mapping, and no borrow of it outlives self.
        let _ = unsafe { rustix::mm::munmap(self.start.cast_mut().cast(), self.len) };
    }
}

/// Copies `bytes` into a new memfd that can no longer change.
pub fn seal(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let written = rustix::io::write(&fd, rest)?;
        rest = &rest[written..];
    }
    rustix::fs::fcntl_add_seals(&fd, IMMUTABLE | SealFlags::SEAL)?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn a_sealed_map_shows_what_was_sealed() {
        let fd = seal("test", b"snapshot").unwrap();
        let map = SealedMap::map(&fd, 100).unwrap();
        assert_eq!(map.as_ref(), b"snapshot");
        assert!(rustix::io::write(&fd, b"x").is_err(), "sealed memory cannot be written");
        assert!(SealedMap::map(&fd, 7).is_err(), "larger than the bound");
    }

    #[test]
    fn memory_that_could_still_change_is_refused() {
        let shared = SharedMemory::create("test", 4096).unwrap();
        assert!(SealedMap::map(shared.fd(), 1 << 20).is_err());
    }

    #[test]
    fn shared_words_start_at_zero_and_keep_their_size() {
        let shared = SharedMemory::create("test", 4100).unwrap();
        assert_eq!(shared.words().len(), 513);
        shared.words()[512].store(7, Relaxed);
        assert_eq!(shared.words()[512].load(Relaxed), 7);
        assert!(rustix::fs::ftruncate(shared.fd(), 8).is_err(), "the size is sealed");
    }
}
