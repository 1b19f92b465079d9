//! The store's own thread: a disk that is slow holds up what is written next, and nothing else.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

use super::account::Account;
use super::store::{Row, Store};

/// What became of rows.
type Written = (Vec<Row>, Result<(), String>);

#[derive(Debug)]
pub(super) struct Writer {
    /// `None` when it is to end.
    jobs: Option<Sender<Vec<Row>>>,
    done: Receiver<Written>,
    /// Whose rows are under way: never more than one batch.
    under_way: Option<Vec<Arc<Account>>>,
    thread: Option<JoinHandle<()>>,
}

/// A batch that is over: its rows, and whose they are.
#[derive(Debug)]
pub(super) struct Outcome {
    pub rows: Vec<Row>,
    pub accounts: Vec<Arc<Account>>,
    pub result: Result<(), String>,
}

impl Writer {
    pub(super) fn start(mut store: Store) -> io::Result<Self> {
        let (jobs, todo) = channel::<Vec<Row>>();
        let (told, done) = channel();
        let work = move || {
            for rows in todo {
                let result = store.write(&rows);
                if told.send((rows, result)).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("budgets-store".to_owned()).spawn(work)?;
        Ok(Self { jobs: Some(jobs), done, under_way: None, thread: Some(thread) })
    }

    pub(super) fn is_busy(&self) -> bool {
        self.under_way.is_some()
    }

    /// Begins to write; not while it is busy.
    pub(super) fn begin(&mut self, rows: Vec<Row>, accounts: Vec<Arc<Account>>) {
        if let Some(jobs) = &self.jobs {
            // A thread that has ended says so by its silence.
            let _ = jobs.send(rows);
            self.under_way = Some(accounts);
        }
    }

    /// The batch that was under way, if it is over; or when it is, if that is to be waited for.
    pub(super) fn outcome(&mut self, waits: bool) -> Option<Outcome> {
        let accounts = self.under_way.take()?;
        let written = if waits {
            self.done.recv().map_err(|_| TryRecvError::Disconnected)
        } else {
            self.done.try_recv()
        };
        match written {
            Ok((rows, result)) => Some(Outcome { rows, accounts, result }),
            Err(TryRecvError::Empty) => {
                self.under_way = Some(accounts);
                None
            }
            Err(TryRecvError::Disconnected) => {
                let result = Err("the thread of the store of budgets has ended".to_owned());
                Some(Outcome { rows: Vec::new(), accounts, result })
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // The file is closed then, and may be another process's.
            let _ = thread.join();
        }
    }
}
