//! Which conformance checks run where.

use clap::ValueEnum;

use crate::step::{Result, cargo, run_last};
use crate::tools;

/// What the checks run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    Memory,
    /// Files, held alone and shared
    Sqlite,
    /// PostgreSQL, a schema for each user
    PostgresSchema,
    /// PostgreSQL, row-level security
    PostgresRls,
    All,
}

/// Which layers lie over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// None
    Plain,
    /// The trail
    Audited,
    /// The seal, also where names stay readable
    Sealed,
    /// Both
    Both,
    All,
}

/// A backend's name in the checks' names in each form.
const NAMES: &[(Backend, Form, &[&str])] = &[
    (Backend::Memory, Form::Plain, &["memory"]),
    (Backend::Memory, Form::Audited, &["memory-audited"]),
    (Backend::Memory, Form::Sealed, &["memory-sealed", "memory-values"]),
    (Backend::Memory, Form::Both, &["memory-both", "memory-both-values"]),
    (Backend::Sqlite, Form::Plain, &["sqlite", "sqlite-shared"]),
    (Backend::Sqlite, Form::Audited, &["sqlite-audited", "shared-audited"]),
    (Backend::Sqlite, Form::Sealed, &["sqlite-sealed", "sqlite-values", "shared-sealed", "shared-values"]),
    (Backend::Sqlite, Form::Both, &["sqlite-both", "shared-both"]),
    (Backend::PostgresSchema, Form::Plain, &["postgres-schema", "postgres-schema-pooled"]),
    (Backend::PostgresSchema, Form::Audited, &["postgres-schema-audited"]),
    (Backend::PostgresSchema, Form::Sealed, &["postgres-schema-sealed", "postgres-schema-values"]),
    (Backend::PostgresSchema, Form::Both, &["postgres-schema-both"]),
    (Backend::PostgresRls, Form::Plain, &["postgres-rls", "postgres-rls-pooled"]),
    (Backend::PostgresRls, Form::Audited, &["postgres-rls-audited"]),
    (Backend::PostgresRls, Form::Sealed, &["postgres-rls-sealed", "postgres-rls-values"]),
    (Backend::PostgresRls, Form::Both, &["postgres-rls-both"]),
];

/// Runs them all, each as a test of its own; the test runner's closing line is the last thing printed.
pub(crate) fn run(backend: Backend, form: Form, check: Option<&str>) -> Result {
    let names = names(backend, form);
    let on_server = names.iter().any(|name| name.starts_with("postgres-"));
    if on_server && std::env::var_os("SYNTHA_POSTGRES_URL").is_none() {
        tools::check_postgres()?;
    }
    let filter = filter(&names, check)?;
    // With the workspace's features, so that nothing is built that CI's tests have not built.
    let build = ["nextest", "run", "--workspace", "--all-features", "--test", "suite"];
    let mut command = cargo(&[&build[..], &["--no-fail-fast", "-E", &filter]].concat());
    if on_server {
        command.env("SYNTHA_POSTGRES_ALL", "1");
    }
    run_last(&format!("conformance: {}", names.join(", ")), &mut command)
}

fn names(backend: Backend, form: Form) -> Vec<&'static str> {
    let wanted = |(on, over, _): &&(Backend, Form, &[&str])| {
        [Backend::All, *on].contains(&backend) && [Form::All, *over].contains(&form)
    };
    NAMES.iter().filter(wanted).flat_map(|(_, _, names)| names.iter().copied()).collect()
}

fn filter(names: &[&str], check: Option<&str>) -> Result<String> {
    let suite = format!("binary_id(syntha-conformance::suite) & test(/^({})::/)", names.join("|"));
    match check {
        None => Ok(suite),
        Some(text) if text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_:-".contains(&byte)) => {
            Ok(format!("{suite} & test(~{text})"))
        }
        Some(_) => Err("--check is a part of a check's name: letters, digits, `_`, `:` and `-`".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_every_backend_has_names_of_its_own() {
        let all = names(Backend::All, Form::All);
        let mut sorted = all.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), all.len());
        let mut parts = Vec::new();
        for backend in Backend::value_variants().iter().filter(|backend| **backend != Backend::All) {
            for form in Form::value_variants().iter().filter(|form| **form != Form::All) {
                let part = names(*backend, *form);
                assert!(!part.is_empty(), "{backend:?} {form:?}");
                parts.extend(part);
            }
        }
        parts.sort_unstable();
        assert_eq!(parts, sorted);
    }

    #[test]
    fn the_suite_knows_every_name() {
        let suite = include_str!("../../crates/syntha-conformance/tests/suite.rs");
        let harnesses = include_str!("../../crates/syntha-conformance/src/postgres.rs");
        let own = ["memory", "sqlite", "sqlite-shared"];
        for name in names(Backend::All, Form::All).iter().filter(|name| !own.contains(name)) {
            let quoted = format!("\"{name}\"");
            assert!(suite.contains(&quoted) || harnesses.contains(&quoted), "{name}");
        }
    }

    #[test]
    fn a_part_of_a_name_is_no_expression() {
        assert_eq!(
            filter(&["memory"], Some("erase_again")).unwrap(),
            "binary_id(syntha-conformance::suite) & test(/^(memory)::/) & test(~erase_again)"
        );
        assert!(filter(&["memory"], Some("x) | all(")).is_err());
    }
}
