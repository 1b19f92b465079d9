//! Moving bytes through the worker's shared buffer: the fewest system calls for small messages.

use rustix::io::Errno;

use super::{BULK_STREAK, Direction, Fault, Lender, Peer, Step};
use crate::pool::FAIR_BYTES;

/// Bytes of the shared buffer; a large read halves the CPU per byte against 64 KiB.
pub(crate) const SCRATCH_BYTES: usize = 256 * 1024;
/// Bytes asked for until a read fills them: touching less memory keeps small messages in the cache.
const FIRST_READ_BYTES: usize = 64 * 1024;

impl Direction {
    pub(super) fn copy(
        &mut self,
        source: &mut Peer,
        destination: &mut Peer,
        lender: &mut Lender,
        most: usize,
    ) -> Result<Step, Fault> {
        // What the destination would not take stays in the kernel, where it slows the sender down.
        if !destination.writable {
            return Ok(Step::Blocked);
        }
        let want = match self.streak {
            // What is read may have to be held: with memory scarce, a flow takes no more than its fair share.
            _ if lender.buffers.scarce() => FAIR_BYTES,
            0 => FIRST_READ_BYTES,
            _ => SCRATCH_BYTES,
        }
        .min(most);
        let space = &mut lender.scratch[..want];
        let mut read = match source.recv(space) {
            Ok(0) => {
                self.eof = true;
                return Ok(Step::Moved(0));
            }
            Ok(read) => read,
            Err(Errno::AGAIN) => {
                source.readable = false;
                self.streak = 0;
                return Ok(Step::Blocked);
            }
            Err(errno) => return Err(Fault::Source(errno)),
        };
        // Who waits for its turn may have had no room for the rest, and has it now: so both go out as one.
        let mut fault = None;
        if read < want && source.deaf && !source.ending {
            match source.recv(&mut space[read..]) {
                Ok(more) => read += more,
                Err(Errno::AGAIN) => {}
                Err(errno) => fault = Some(Fault::Source(errno)),
            }
        }
        if read == want {
            self.streak = self.streak.saturating_add(1);
            if self.streak >= BULK_STREAK {
                self.splicing = true;
                self.streak = 0;
            }
        } else {
            self.streak = 0;
            self.eof = source.ends_here();
            source.drained();
        }
        let send = if self.eof { egress_sys::send_last } else { egress_sys::send };
        let mut sent = 0;
        while sent < read {
            match send(destination.fd(), &lender.scratch[sent..read]) {
                Ok(n) => sent += n,
                Err(Errno::AGAIN) => {
                    destination.writable = false;
                    self.pending = Some(lender.buffers.holding(&lender.scratch[sent..read]));
                    break;
                }
                Err(errno) => {
                    self.bytes += sent as u64;
                    return Err(Fault::Destination(errno));
                }
            }
        }
        self.bytes += sent as u64;
        fault.map_or(Ok(Step::Moved(read)), Err)
    }
}
