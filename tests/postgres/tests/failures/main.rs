//! A server that fails in every way it can: what was acknowledged is there, what was not is known or can be asked for, nothing is written twice,
//! and the store serves again by itself.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "it prints its row of evidence")]

mod late;
mod outages;
mod refusals;
mod repeats;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use syntha_postgres::testing::TestDatabase;
use syntha_postgres::{Mode, PostgresConfig, PostgresStore};
use syntha_postgres_tests::{Tally, Writer};
use tokio::task::JoinHandle;

const MODES: [Mode; 2] = [Mode::Schema, Mode::Rls];

/// Writers that work while something fails.
struct Work {
    tally: Arc<Tally>,
    writers: Vec<JoinHandle<Writer>>,
}

impl Work {
    async fn start(configs: Vec<(&'static str, PostgresConfig)>) -> Self {
        let (tally, mut writers) = (Arc::new(Tally::default()), Vec::new());
        for (way, config) in configs {
            let store = PostgresStore::open(config.connections(2)).await.unwrap();
            for number in 0..3 {
                let writer = Writer::new(&store, &format!("{way}-{number}")).await;
                writers.push(tokio::spawn(writer.write(Arc::clone(&tally))));
            }
        }
        Self { tally, writers }
    }

    /// Each goes on for a while, and then all of it is there.
    async fn end(self, what: &str) {
        self.tally.progress(60).await;
        self.tally.over.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.await.unwrap().check().await;
        }
        println!("{what}: {} commits, {:?}", self.tally.commits(), self.tally);
    }

    fn unknown(&self) -> u64 {
        self.tally.unknown.load(Ordering::Relaxed)
    }
}

/// Directly, and behind a pooler.
async fn both_ways(database: &TestDatabase) -> Vec<(&'static str, PostgresConfig)> {
    let pooler = database.server().shared_pooler().await.unwrap();
    vec![("direct", database.config()), ("pooled", database.config_through(pooler))]
}
