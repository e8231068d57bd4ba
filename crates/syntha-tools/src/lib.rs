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

pub use access::{Access, Level, Role};
pub use configuration::AgentTools;
pub use error::{Error, ErrorKind, Result};
pub use handler::ToolHandler;
pub use hybrid::{HostTool, HybridHandler};
pub use prompt::{BuiltPrompt, PROMPT_BYTES, Placement, Prompt};
pub use reply::REPLY_BYTES;

/// The mesh, whose agents are offered the tools.
pub use syntha_mesh;
