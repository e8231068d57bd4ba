//! Every check of the conformance suite on the backend, each shown as a test of its own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use async_trait::async_trait;
use libtest_mimic::{Arguments, Failed, Trial};
use syntha_conformance::syntha_encryption::Mode;
use syntha_conformance::{Check, EncryptedHarness, Harness, Instance, mesh_checks, run, store_checks};
use syntha_own_backend::FolderStore;
use syntha_store::{DeploymentKey, Store};

#[derive(Clone, Copy)]
struct Folder;

struct FolderInstance {
    folder: tempfile::TempDir,
    store: Arc<FolderStore>,
}

#[async_trait]
impl Harness for Folder {
    fn name(&self) -> &'static str {
        "folder"
    }

    async fn fresh(&self) -> Box<dyn Instance> {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(FolderStore::open(folder.path()).unwrap());
        Box::new(FolderInstance { folder, store })
    }
}

#[async_trait]
impl Instance for FolderInstance {
    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as _
    }

    fn key(&self) -> DeploymentKey {
        DeploymentKey::from_bytes([7; 32])
    }

    fn below(&self) -> Option<Arc<dyn Store>> {
        None
    }

    async fn reopen(&mut self) {
        self.store.close().await.unwrap();
        self.store = Arc::new(FolderStore::open(self.folder.path()).unwrap());
    }

    async fn crash(&mut self) {
        // The files as they lie there, under another lock than the one that the store before still holds.
        let folder = tempfile::tempdir().unwrap();
        for (file, bytes) in files(self.folder.path()) {
            std::fs::write(folder.path().join(file), bytes).unwrap();
        }
        self.store = Arc::new(FolderStore::open(folder.path()).unwrap());
        self.folder = folder;
    }

    async fn files(&self) -> Vec<(String, Vec<u8>)> {
        files(self.folder.path())
    }
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect()
}

fn main() -> ExitCode {
    let mut trials = Vec::new();
    for (table, checks) in [("store", store_checks()), ("mesh", mesh_checks())] {
        trials.extend(checks.into_iter().map(|check| trial(table, Folder, check)));
    }
    // A backend knows nothing of the layer that seals what it keeps.
    let sealed = EncryptedHarness { name: "folder-sealed", inner: Folder, mode: Mode::Sealed, fault: None };
    trials.extend(store_checks().into_iter().map(|check| trial("sealed", sealed, check)));
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn trial(table: &str, harness: impl Harness + 'static, check: Check) -> Trial {
    Trial::test(format!("{table}::{}", check.name), move || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let report = runtime.block_on(run(&harness, &[check]));
        match report.rows.into_iter().find_map(|row| row.failure) {
            Some(failure) => Err(Failed::from(failure)),
            None => Ok(()),
        }
    })
}
