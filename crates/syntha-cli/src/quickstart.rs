use serde_json::json;
use syntha::{Filter, HostAuthority, UserManager};

use crate::opening::Opening;
use crate::{Answer, Result};

/// Two users with agents of the same names, entries of the same keys, and no crossing.
pub(crate) async fn run(opening: &Opening, users: &UserManager, host: &HostAuthority) -> Result {
    let (mut lines, mut value) = (vec![opening.place()], json!({}));
    let found = !users.list(None, 1).await?.is_empty();
    lines.push(if found {
        "the data of an earlier run is there".into()
    } else {
        "there was no data yet".to_owned()
    });
    let sealed = users.sealing().map(|mode| {
        let (key_file, keystore) = (opening.key_file(), opening.keystore());
        lines.push(format!("sealed, mode `{mode}`"));
        if let Some(key_file) = &key_file {
            lines.push(format!("key file: {}", key_file.display()));
        }
        lines.push(format!("keystore: {}", keystore.display()));
        lines.push(
            match key_file {
                Some(_) => "copy both to a place apart from the data: nothing opens without them",
                None => "copy it, and keep the key: nothing opens without both",
            }
            .into(),
        );
        json!({ "mode": mode.name(), "key_file": key_file, "keystore": keystore })
    });
    if sealed.is_none() {
        lines.push("not sealed: whoever has the files reads them".into());
    }
    insert(&mut value, "sealed", json!(sealed));
    let audit_key = users.audit().map(|_| opening.audit_key_file());
    lines.push(match &audit_key {
        Some(path) => format!(
            "audit trail, signed with the key file {}: copy it too, the data does not open without it",
            path.display()
        ),
        None => "no audit trail: nobody finds what is changed behind the data".into(),
    });
    insert(&mut value, "audit_key", json!(audit_key));
    for (user, theme, task) in [("alice", "dark", "plan the release"), ("bob", "light", "write the invoice")]
    {
        let session = users.create_user_session(host, user).await?;
        let (assistant, researcher) = (session.agent("Assistant")?, session.agent("Researcher")?);
        researcher.subscribe(["tasks"]).await?;
        if assistant.entry("preferences").await?.is_none() {
            assistant.push("preferences", json!({ "theme": theme })).await?;
            assistant.push("task", task).topic("tasks").await?;
            assistant.push("note", "for the researcher alone").agents(["Researcher"]).await?;
        }
        let tag = users.tag(user)?.to_string();
        lines.push(String::new());
        lines.push(match &opening.settings.database {
            Some(_) => format!("user {user}, tag {tag}"),
            None => format!("user {user}, file {tag}.db"),
        });
        let mut seen = json!({});
        for agent in [&assistant, &researcher] {
            let entries = agent.all(&Filter::new()).await?;
            let all: Vec<_> =
                entries.iter().map(|entry| format!("{} = {}", entry.key(), entry.json())).collect();
            lines.push(format!("  {:11} sees {}", agent.name(), all.join(", ")));
            let keys: Vec<_> = entries.iter().map(|entry| entry.key().to_owned()).collect();
            insert(&mut seen, agent.name(), json!(keys));
        }
        insert(&mut value, user, json!({ "tag": tag, "sees": seen }));
    }
    lines.push(String::new());
    lines.push("try next:".into());
    let settings = &opening.settings;
    let data = match &settings.database {
        // A URL is not printed: it may hold a password.
        Some(_) => format!("--state-folder {}", settings.state.display()),
        None => format!("--data {}", settings.data.display()),
    };
    lines.push(format!("  syntha {data} get --user alice --agent Assistant preferences"));
    lines.push(format!("  syntha {data} list --user bob --agent Researcher"));
    if audit_key.is_some() {
        lines.push(format!("  syntha {data} audit show --user alice"));
        lines.push(format!("  syntha {data} audit verify --all --state"));
    }
    Ok(Answer { lines, value })
}

pub(crate) fn insert(into: &mut serde_json::Value, name: &str, value: serde_json::Value) {
    if let Some(object) = into.as_object_mut() {
        object.insert(name.to_owned(), value);
    }
}
