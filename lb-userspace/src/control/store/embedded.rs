//! The embedded store: redb, one file, one redb table per table of the state. A commit is one transaction that is on
//! disk (fsync) when it returns.

use std::path::Path;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableHandle};

use super::{Store, StoreError};
use crate::model::state::{State, Writes};

/// Numbers beside the tables: generation and layout.
const META: TableDefinition<'static, &str, u64> = TableDefinition::new("meta");

/// Layout of rows; rises when old rows must be migrated.
const LAYOUT: u64 = 1;

/// The state in a redb file.
pub struct EmbeddedStore {
    database: Database,
}

impl EmbeddedStore {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// When it cannot be opened, is damaged, or another process has it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Database::create(path).map(|database| Self { database }).map_err(database_error)
    }
}

impl Store for EmbeddedStore {
    fn load(&mut self) -> Result<(State, u64), StoreError> {
        let read = self.database.begin_read().map_err(database_error)?;
        let mut state = State::default();
        let mut generation = 0;
        for handle in read.list_tables().map_err(database_error)? {
            if handle.name() == META.name() {
                let meta = read.open_table(META).map_err(database_error)?;
                let number = |key: &str| meta.get(key).map(|row| row.map_or(0, |row| row.value()));
                generation = number("generation").map_err(database_error)?;
                let found = number("layout").map_err(database_error)?;
                if found != LAYOUT {
                    return Err(StoreError::Layout { found, known: LAYOUT });
                }
                continue;
            }
            let name = handle.name().to_owned();
            let table = read.open_table(rows(&name)).map_err(database_error)?;
            for row in table.iter().map_err(database_error)? {
                let (key, value) = row.map_err(database_error)?;
                state.load(&name, key.value(), value.value())?;
            }
        }
        Ok((state, generation))
    }

    fn commit(&mut self, writes: &Writes, generation: u64) -> Result<(), StoreError> {
        let write = self.database.begin_write().map_err(database_error)?;
        {
            let mut meta = write.open_table(META).map_err(database_error)?;
            meta.insert("generation", generation).map_err(database_error)?;
            meta.insert("layout", LAYOUT).map_err(database_error)?;
        }
        // Writes are in table order, so each table is opened once.
        let mut rest = writes.iter().peekable();
        while let Some(((name, _), _)) = rest.peek() {
            let name = *name;
            let mut table = write.open_table(rows(name)).map_err(database_error)?;
            while let Some(((_, key), row)) = rest.next_if(|((table, _), _)| *table == name) {
                match row {
                    Some(row) => table.insert(key.as_str(), row.encode()?.as_slice()).map(|_| ()),
                    None => table.remove(key.as_str()).map(|_| ()),
                }
                .map_err(database_error)?;
            }
        }
        write.commit().map_err(database_error)
    }
}

fn rows(name: &str) -> TableDefinition<'_, &'static str, &'static [u8]> {
    TableDefinition::new(name)
}

fn database_error(error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Database(Box::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Draft, id::Arn, task::Cluster};

    fn cluster(name: &str) -> Cluster {
        let arn = Arn::new("ecs", "eu-central-1", "000000000000", format_args!("cluster/{name}"));
        Cluster { arn, name: name.to_owned(), status: "ACTIVE".to_owned(), tags: Vec::new() }
    }

    #[test]
    fn what_was_committed_is_there_when_opened_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.redb");
        let mut store = EmbeddedStore::open(&path).unwrap();
        let (state, generation) = store.load().unwrap();
        assert_eq!((state.clusters.len(), generation), (0, 0));
        let mut draft = Draft::new(state, 0, [1; 32]);
        draft.put(cluster("one"));
        draft.put(cluster("two"));
        let (state, writes) = draft.finish();
        store.commit(&writes, 1).unwrap();
        let mut draft = Draft::new(state, 0, [2; 32]);
        draft.remove::<Cluster>(cluster("one").arn.as_str());
        let (state, writes) = draft.finish();
        store.commit(&writes, 2).unwrap();
        drop(store);
        let (loaded, generation) = EmbeddedStore::open(&path).unwrap().load().unwrap();
        assert_eq!(loaded.clusters, state.clusters);
        assert_eq!(generation, 2);
    }
}
