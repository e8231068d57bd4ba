//! The documents, so that `cargo test --doc` compiles and runs every Rust block in them. A document that is not named here has
//! no Rust block; a test sees to it.

#![forbid(unsafe_code)]

#[doc = include_str!("../../../README.md")]
mod readme {}

#[doc = include_str!("../../../docs/context-mesh.md")]
mod context_mesh {}

#[doc = include_str!("../../../docs/encryption.md")]
mod encryption {}

#[doc = include_str!("../../../docs/fairness.md")]
mod fairness {}

#[doc = include_str!("../../../docs/limits.md")]
mod limits {}

#[doc = include_str!("../../../docs/logins.md")]
mod logins {}

#[doc = include_str!("../../../docs/multi-user-setup.md")]
mod multi_user_setup {}

#[doc = include_str!("../../../docs/observability.md")]
mod observability {}

#[doc = include_str!("../../../docs/permissions.md")]
mod permissions {}

#[doc = include_str!("../../../docs/postgres.md")]
mod postgres {}

#[doc = include_str!("../../../docs/user-isolation.md")]
mod user_isolation {}

#[doc = include_str!("../../../docs/writing-a-backend.md")]
mod writing_a_backend {}

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// Rust blocks that nobody runs: in a document that is not included, or behind a word that keeps them from running.
    #[test]
    fn every_rust_block_of_a_document_is_run() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let included = include_str!("lib.rs");
        let mut documents = Vec::new();
        for folder in [".", "docs", "docs/decisions", "tests", "tests/python-syntha"] {
            for entry in std::fs::read_dir(root.join(folder)).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                if name.ends_with(".md") {
                    documents.push(if folder == "." { name } else { format!("{folder}/{name}") });
                }
            }
        }
        assert!(documents.iter().any(|document| document == "docs/context-mesh.md"));
        for document in documents {
            let text = std::fs::read_to_string(root.join(&document)).unwrap();
            let blocks: Vec<_> = text.lines().filter(|line| line.starts_with("```rust")).collect();
            assert!(blocks.iter().all(|block| *block == "```rust"), "{document}: {blocks:?} does not run");
            let is_included = included.contains(&format!("\"../../../{document}\""));
            assert!(is_included || blocks.is_empty(), "{document}: nobody runs its code");
        }
    }
}
