#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod handler;
mod reply;
mod schema;

pub use handler::{Role, ToolHandler};
pub use reply::REPLY_BYTES;

/// The mesh, whose agents are offered the tools.
pub use syntha_mesh;
