//! Where a user is named: by who opens, by who administers, and nowhere else. A public call that takes a user's id and is not in this list fails.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use quote::ToTokens;
use syn::{ImplItem, ImplItemFn, Item, Type, Visibility};

/// The layers that callers of an application see. The layers below know users by tags.
const CRATES: &[&str] = &[
    "syntha",
    "syntha-mesh",
    "syntha-tools",
    "syntha-identity",
    "syntha-postgres",
    "syntha-sqlite",
    "syntha-audit",
    "syntha-encryption",
];

/// Types whose calls may take one: what opens a mesh, the manager with its accounts and its audit trail, the identity layer, and the manager's
/// builder, which is told how to tell users' groups (`Builder::owner_groups`) and gets at no data.
const MAY: &[&str] =
    &["ContextMesh", "UserManager", "Builder", "Accounts", "AuditTrail", "Identity", "Tokens", "Sessions"];

/// How many calls take one. A new one is looked at by whoever raises the number.
const CALLS: usize = 60;

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Whether a call takes a user's id, as it is or as something that becomes one.
fn takes_user(function: &ImplItemFn) -> bool {
    let inputs = function.sig.inputs.to_token_stream().to_string();
    let bounds = function.sig.generics.where_clause.to_token_stream().to_string();
    let params = function.sig.generics.params.to_token_stream().to_string();
    [inputs, bounds, params].iter().any(|text| text.contains("UserId"))
}

fn collect(items: &[Item], found: &mut BTreeSet<(String, String)>) {
    for item in items {
        match item {
            Item::Mod(module) => {
                if let Some((_, items)) = &module.content {
                    collect(items, found);
                }
            }
            Item::Impl(block) if block.trait_.is_none() => {
                let Type::Path(of) = &*block.self_ty else { continue };
                let of = of.path.segments.last().unwrap().ident.to_string();
                for item in &block.items {
                    if let ImplItem::Fn(function) = item
                        && matches!(function.vis, Visibility::Public(_))
                        && takes_user(function)
                    {
                        found.insert((of.clone(), function.sig.ident.to_string()));
                    }
                }
            }
            Item::Fn(function) if matches!(function.vis, Visibility::Public(_)) => {
                let text = function.sig.to_token_stream().to_string();
                if text.contains("UserId") {
                    found.insert(("fn".into(), function.sig.ident.to_string()));
                }
            }
            _ => {}
        }
    }
}

#[test]
fn users_are_named_where_they_are_let_in_and_nowhere_else() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut found = BTreeSet::new();
    for name in CRATES {
        let mut files = Vec::new();
        sources(&root.join("crates").join(name).join("src"), &mut files);
        for file in files {
            let mut own = BTreeSet::new();
            collect(&syn::parse_file(&std::fs::read_to_string(&file).unwrap()).unwrap().items, &mut own);
            found.extend(own.into_iter().map(|(of, call)| (format!("{name}: {of}"), of, call)));
        }
    }
    let wrong: Vec<_> = found.iter().filter(|(_, of, _)| !MAY.contains(&&**of)).collect();
    assert!(wrong.is_empty(), "a call that is no door takes a user's id: {wrong:?}");
    assert_eq!(found.len(), CALLS, "calls that take a user's id: {found:#?}");
}
