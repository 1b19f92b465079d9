//! The file in which it is kept what is used: an embedded database, of which each commit is on the disk when it returns.

use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use egress_policy::Period;
use redb::backends::FileBackend;
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition,
    TableError,
};

use super::account::Ledger;

/// By rule, direction and source; a later format has another name.
const USED: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("used.v1");
/// Bytes. The whole of it is smaller, but for one that holds all the sources that there can be.
const CACHE: usize = 1 << 20;
/// Between a rule's name and the rest of a key: no name has it.
const END: u8 = 0;

/// What is kept of an account in one direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub rule: String,
    pub way: usize,
    /// Empty for the rule itself.
    pub source: Box<[u8]>,
    pub ledger: Ledger,
    pub used: u64,
}

/// A key, and what is kept under it; nothing any more where that is `None`.
pub(super) type Row = (Vec<u8>, Option<(Ledger, u64)>);

/// Why there is no store, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub message: String,
    pub fix: &'static str,
}

#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    /// `None` after a failure, until it is opened again.
    database: Option<Database>,
}

impl Entry {
    pub(super) fn key(rule: &str, way: usize, source: &[u8]) -> Vec<u8> {
        let way = u8::from(way == 1);
        [rule.as_bytes(), &[END, way], source].concat()
    }

    fn value(ledger: &Ledger, used: u64) -> Vec<u8> {
        let (other, kept) = ledger.other.unwrap_or((u64::MAX, 0));
        let mut bytes = vec![ledger.period as u8];
        for word in [ledger.begin, used, other, kept] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// `None` for what no version of the gateway has written.
    fn read(key: &[u8], value: &[u8]) -> Option<Self> {
        let end = key.iter().position(|byte| *byte == END)?;
        let (rule, rest) = (std::str::from_utf8(&key[..end]).ok()?, &key[end + 1..]);
        let (way, source) = rest.split_first()?;
        let (period, words) = value.split_first()?;
        let (words, []) = words.as_chunks::<8>() else { return None };
        let [begin, used, other, kept] =
            <[[u8; 8]; 4]>::try_from(words).ok()?.map(u64::from_le_bytes);
        let period = Period::ALL.into_iter().find(|known| *known as u8 == *period)?;
        let other = (other != u64::MAX).then_some((other, kept));
        let ledger = Ledger { period, begin, other };
        Some(Self {
            rule: rule.to_owned(),
            way: usize::from(*way & 1),
            source: source.into(),
            ledger,
            used,
        })
    }
}

impl Store {
    /// Opens the file, or makes it, and gives what is in it.
    pub(super) fn open(path: &Path) -> Result<(Self, Vec<Entry>), Fault> {
        let mut store = Self::closed(path);
        // It checks what it reads; where a damaged file gets through that, it is still one that cannot be used.
        let read = catch_unwind(AssertUnwindSafe(|| {
            store.reopen()?;
            store.entries().map_err(|error| store.damaged(&error))
        }));
        match read {
            Ok(read) => read.map(|entries| (store, entries)),
            Err(_) => Err(store.damaged(&"it cannot be read")),
        }
    }

    /// One that is opened when it is written.
    pub(super) fn closed(path: &Path) -> Self {
        Self { path: path.to_owned(), database: None }
    }

    fn damaged(&self, error: &dyn std::fmt::Display) -> Fault {
        Fault {
            message: format!(
                "the store of budgets, {}, is damaged, or is none: {error}",
                self.path.display()
            ),
            fix: "move the file away (all budgets then begin anew), or say where else: `budgets: { store: … }`",
        }
    }

    fn reopen(&mut self) -> Result<(), Fault> {
        let unusable = |error: &dyn std::fmt::Display| Fault {
            message: format!(
                "the store of budgets, {}, cannot be opened: {error}",
                self.path.display()
            ),
            fix: "let the gateway write there, or say where else: `budgets: { store: … }`",
        };
        // One folder only: more of them are a typing error.
        if let Some(folder) = self.path.parent()
            && !folder.exists()
        {
            DirBuilder::new().mode(0o700).create(folder).map_err(|error| unusable(&error))?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&self.path)
            .map_err(|error| unusable(&error))?;
        // Every page is looked at: of a damaged one that is found later nobody could be told.
        let database = FileBackend::new(file).and_then(|file| {
            let mut builder = Database::builder();
            builder.set_cache_size(CACHE).set_check_integrity_on_open(true);
            builder.create_with_backend(file)
        });
        let database = database.map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => Fault {
                message: format!(
                    "the store of budgets, {}, is open in another process",
                    self.path.display()
                ),
                fix: "stop the other gateway, or give each its own: `budgets: { store: … }`",
            },
            DatabaseError::Storage(StorageError::Io(error))
                if error.kind() != std::io::ErrorKind::InvalidData =>
            {
                unusable(&error)
            }
            error => self.damaged(&error),
        })?;
        self.database = Some(database);
        Ok(())
    }

    fn entries(&self) -> Result<Vec<Entry>, redb::Error> {
        let Some(database) = &self.database else { return Ok(Vec::new()) };
        let reading = database.begin_read()?;
        let table = match reading.open_table(USED) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            table => table?,
        };
        let mut entries = Vec::new();
        for row in table.iter()? {
            let (key, value) = row?;
            entries.extend(Entry::read(key.value(), value.value()));
        }
        Ok(entries)
    }

    /// Writes what is given, and removes what comes without a value; all of it or nothing.
    pub(super) fn write(&mut self, rows: &[Row]) -> Result<(), String> {
        if self.database.is_none() {
            self.reopen().map_err(|fault| fault.message)?;
        }
        let written = catch_unwind(AssertUnwindSafe(|| self.commit(rows)));
        let written =
            written.unwrap_or_else(|_| Err(StorageError::Corrupted("unknown".to_owned()).into()));
        written.map_err(|error| {
            // After a failure it takes nothing more until it is opened anew.
            self.close();
            format!("the store of budgets, {}, cannot be written: {error}", self.path.display())
        })
    }

    /// A damaged one may fail at this, too.
    fn close(&mut self) {
        let database = self.database.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(database)));
    }

    fn commit(&self, rows: &[Row]) -> Result<(), redb::Error> {
        let Some(database) = &self.database else { return Ok(()) };
        let writing = database.begin_write()?;
        {
            let mut table = writing.open_table(USED)?;
            for (key, value) in rows {
                match value {
                    Some((ledger, used)) => {
                        table.insert(key.as_slice(), Entry::value(ledger, *used).as_slice())?;
                    }
                    None => drop(table.remove(key.as_slice())?),
                }
            }
        }
        // On the disk when it returns, which is what a commit does unless told otherwise.
        writing.commit()?;
        Ok(())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}
