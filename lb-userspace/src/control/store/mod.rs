//! Where the state lasts: what a store must do, and the embedded one.

/// The embedded store: redb, one file.
pub mod embedded;

pub use embedded::EmbeddedStore;

use crate::model::state::{LoadError, State, Writes};

/// Something that keeps the state. One writer at a time.
pub trait Store: Send {
    /// The state as last committed, and its generation; both empty at first.
    ///
    /// # Errors
    /// When what is stored cannot be read.
    fn load(&mut self) -> Result<(State, u64), StoreError>;

    /// Makes `writes` last, all or none: when it returns, they survive a crash of the machine.
    ///
    /// # Errors
    /// When they could not be made to last; then none is.
    fn commit(&mut self, writes: &Writes, generation: u64) -> Result<(), StoreError>;
}

/// What a store cannot do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file, its directory or the disk.
    #[error("state database")]
    Database(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A row that this version cannot read.
    #[error("reading the stored state")]
    Row(#[from] LoadError),
    /// A row that cannot be written as JSON.
    #[error("writing a row of the state")]
    Encode(#[from] serde_json::Error),
    /// Written by a version with another layout.
    #[error("state was written in layout {found}, this version reads layout {known}")]
    Layout {
        /// In the file.
        found: u64,
        /// Ours.
        known: u64,
    },
}
