//! Moving bytes inside the kernel: for bulk, where not touching the bytes is worth two system calls per move.

use std::io;

use rustix::io::Errno;

use super::{Direction, Fault, Lender, Peer, Step};

/// A move of fewer bytes than this would have been cheaper to copy.
const SMALL_MOVE_BYTES: usize = 32 * 1024;
/// Small moves in a row after which the flow is taken to be no bulk any more.
const SMALL_STREAK: u8 = 4;

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

impl Direction {
    /// Fills a lent pipe from the source; `drain_pipe` takes it from there.
    pub(super) fn splice(
        &mut self,
        source: &mut Peer,
        lender: &mut Lender,
        most: usize,
    ) -> Result<Step, Fault> {
        let Some(mut pipe) = lender.pipes.lend() else {
            lender.pipe_misses += 1;
            self.back_to_copy();
            return Ok(Step::Moved(0));
        };
        match pipe.fill(source.fd(), most) {
            // An end, or the mark of urgent data with an end behind it: a read tells which.
            Ok(0) => {
                lender.pipes.give_back(pipe);
                self.back_to_copy();
                Ok(Step::Moved(0))
            }
            Ok(moved) => {
                self.spliced = true;
                self.streak = if moved < SMALL_MOVE_BYTES { self.streak + 1 } else { 0 };
                if self.streak >= SMALL_STREAK {
                    self.back_to_copy();
                }
                self.pipe = Some(pipe);
                Ok(Step::Moved(moved))
            }
            Err(error) => {
                lender.pipes.give_back(pipe);
                match errno(&error) {
                    // The pipe was empty, so it is the socket that has nothing.
                    Errno::AGAIN => {
                        source.readable = false;
                        Ok(Step::Blocked)
                    }
                    Errno::INTR => Ok(Step::Moved(0)),
                    Errno::INVAL => {
                        self.back_to_copy();
                        Ok(Step::Moved(0))
                    }
                    errno => Err(Fault::Source(errno)),
                }
            }
        }
    }

    fn back_to_copy(&mut self) {
        self.splicing = false;
        self.streak = 0;
    }

    /// Empties the pipe into the destination; `true` when it is empty and given back.
    pub(super) fn drain_pipe(
        &mut self,
        destination: &mut Peer,
        lender: &mut Lender,
    ) -> Result<bool, Fault> {
        let Some(pipe) = &mut self.pipe else { return Ok(true) };
        while !pipe.is_empty() {
            if !destination.writable {
                return Ok(false);
            }
            match pipe.drain(destination.fd()) {
                Ok(moved) => self.bytes += moved as u64,
                Err(error) => match errno(&error) {
                    Errno::AGAIN => destination.writable = false,
                    Errno::INTR => {}
                    errno => return Err(Fault::Destination(errno)),
                },
            }
        }
        if let Some(pipe) = self.pipe.take() {
            lender.pipes.give_back(pipe);
        }
        Ok(true)
    }
}
