#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![allow(clippy::indexing_slicing, reason = "a JSON value answers null for what is absent")]

pub mod anthropic;
mod anthropic_wire;
pub mod openai;
mod openai_wire;
pub mod rig;
mod server;

pub use anthropic_wire::Anthropic;
pub use openai_wire::OpenAi;
pub use server::{Call, ScriptedServer, Step, Wire};

/// The result of a loop.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Where a provider listens, and as whom it is asked.
#[derive(Clone, Debug)]
pub struct Provider {
    /// The address up to and without the API's last path, as `https://api.openai.com/v1`.
    pub url: String,
    /// The API key.
    pub key: String,
    /// The model's name.
    pub model: String,
}

/// The most turns of one conversation: a model that never stops calling is stopped.
const TURNS: usize = 16;
