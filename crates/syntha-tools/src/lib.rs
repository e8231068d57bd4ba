#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod access;
mod arguments;
mod configuration;
mod context;
mod error;
mod handler;
mod history;
mod hybrid;
mod line;
mod prompt;
mod reply;
mod schema;
mod topics;

pub use access::{Access, Level};
pub use configuration::AgentTools;
pub use error::{Error, ErrorKind, Result};
pub use handler::ToolHandler;
pub use hybrid::{HostTool, HybridHandler};
pub use prompt::{BuiltPrompt, PROMPT_BYTES, Placement, Prompt};
pub use reply::REPLY_BYTES;
/// What an agent is, as its mesh decides by it too.
pub use syntha_mesh::Role;

/// The mesh, whose agents are offered the tools.
pub use syntha_mesh;
