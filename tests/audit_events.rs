//! `docs/audit-events.md` says of every public call what the audit trail is told of it: no call is missing, and none is made up.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use syn::{ImplItem, Item, Type, Visibility};

/// Where what a caller can call stands, by type.
const TYPES: &[(&str, &[&str])] = &[
    ("crates/syntha-mesh/src", &["Mesh", "Agent", "Push", "Batch", "Watch", "Thread"]),
    ("crates/syntha/src", &["UserManager", "Accounts", "Session", "HostAuthority", "ContextMesh"]),
    ("crates/syntha-tools/src", &["AgentTools", "ToolHandler", "HostTool", "HybridHandler", "Prompt"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The public calls of the types above: `Mesh::push` and so on.
fn calls() -> BTreeSet<String> {
    let mut calls = BTreeSet::new();
    for (folder, types) in TYPES {
        for file in std::fs::read_dir(root().join(folder)).unwrap() {
            let file = file.unwrap().path();
            if file.extension().is_some_and(|extension| extension == "rs") {
                collect(
                    &syn::parse_file(&std::fs::read_to_string(&file).unwrap()).unwrap().items,
                    types,
                    &mut calls,
                );
            }
        }
    }
    calls
}

fn collect(items: &[Item], types: &[&str], calls: &mut BTreeSet<String>) {
    for item in items {
        match item {
            Item::Mod(module) => {
                if let Some((_, items)) = &module.content {
                    collect(items, types, calls);
                }
            }
            Item::Impl(block) if block.trait_.is_none() => {
                let Type::Path(of) = &*block.self_ty else { continue };
                let of = of.path.segments.last().unwrap().ident.to_string();
                for item in &block.items {
                    if let ImplItem::Fn(function) = item
                        && matches!(function.vis, Visibility::Public(_))
                        && types.contains(&&*of)
                    {
                        calls.insert(format!("{of}::{}", function.sig.ident));
                    }
                }
            }
            _ => {}
        }
    }
}

/// What an event can be called in a trail.
fn actions() -> BTreeSet<String> {
    let source = std::fs::read_to_string(root().join("crates/syntha-store/src/event.rs")).unwrap();
    let items = syn::parse_file(&source).unwrap().items;
    let action = items.into_iter().find_map(|item| match item {
        Item::Enum(item) if item.ident == "Action" => Some(item),
        _ => None,
    });
    action.unwrap().variants.iter().map(|variant| kebab(&variant.ident.to_string())).collect()
}

fn kebab(name: &str) -> String {
    let mut text = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !text.is_empty() {
            text.push('-');
        }
        text.extend(letter.to_lowercase());
    }
    text
}

/// What is wrong with a table: its rows are `` | `Type::call` | `action` ... | `` or `` | `Type::call` | none: why | ``.
fn wrong(table: &str, calls: &BTreeSet<String>, actions: &BTreeSet<String>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut rows = BTreeMap::new();
    for line in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [_, call, told, _] = *cells else {
            wrong.push(format!("a row of another form: {line}"));
            continue;
        };
        let call = call.trim_matches('`');
        if !calls.contains(call) {
            wrong.push(format!("{call} is no public call"));
        }
        if rows.insert(call, told).is_some() {
            wrong.push(format!("{call} has two rows"));
        }
        let reason = told.strip_prefix("none: ").is_some_and(|reason| reason.len() > 3);
        // Every second piece stands in backticks.
        let named: Vec<_> = told.split('`').skip(1).step_by(2).collect();
        if !reason && (named.is_empty() || !told.starts_with('`')) {
            wrong.push(format!("{call} has neither an event nor a reason"));
        }
        let unknown = named.iter().filter(|name| !reason && !actions.contains(**name));
        wrong.extend(unknown.map(|name| format!("{call}: there is no event {name}")));
    }
    wrong.extend(
        calls.iter().filter(|call| !rows.contains_key(&***call)).map(|call| format!("{call} has no row")),
    );
    wrong
}

#[test]
fn every_public_call_has_a_row() {
    let table = std::fs::read_to_string(root().join("docs/audit-events.md")).unwrap();
    let wrong = wrong(&table, &calls(), &actions());
    assert!(wrong.is_empty(), "docs/audit-events.md:\n{}", wrong.join("\n"));
}

#[test]
fn a_table_that_is_wrong_is_found() {
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let (calls, actions) = (set(&["Mesh::push", "Mesh::agent"]), set(&["push", "read-thread"]));
    let (push, agent) = ("| `Mesh::push` | `push` |\n", "| `Mesh::agent` | none: it does nothing |\n");
    let check = |rows: &[&str]| wrong(&rows.concat(), &calls, &actions);
    assert!(check(&[push, agent]).is_empty());
    assert_eq!(check(&[push]), ["Mesh::agent has no row"]);
    assert_eq!(check(&[push, agent, "| `Mesh::pull` | `push` |\n"]), ["Mesh::pull is no public call"]);
    assert_eq!(check(&[push, push, agent]), ["Mesh::push has two rows"]);
    assert_eq!(check(&["| `Mesh::push` | `pull` |\n", agent]), ["Mesh::push: there is no event pull"]);
    assert_eq!(check(&["| `Mesh::push` | |\n", agent]), ["Mesh::push has neither an event nor a reason"]);
    assert_eq!(
        check(&["| `Mesh::push` | none: |\n", agent]),
        ["Mesh::push has neither an event nor a reason"]
    );
}

#[test]
fn the_calls_and_events_are_found() {
    let (calls, actions) = (calls(), actions());
    for call in
        ["Mesh::push", "Mesh::export", "Agent::get", "Thread::import_chat", "Push::ttl", "ContextMesh::open"]
    {
        assert!(calls.contains(call), "{call}");
    }
    assert!(!calls.contains("Mesh::write"), "it is not public");
    assert!(actions.contains("read-thread") && actions.contains("push"));
}
