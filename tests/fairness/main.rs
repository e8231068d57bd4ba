//! Who asks for much waits behind itself: by the order of what the store is asked, and never by the clock.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a test prints its row of evidence")]

mod ending;
mod lines;
mod memory;
mod ordered;
mod sweeping;
mod watching;
