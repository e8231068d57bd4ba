//! The reference: the contract in its plainest form, in memory.

mod store;
mod user_store;

pub use store::MemoryStore;
