//! What is wrong, or could be better kept, with a data folder and its keys.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::{Value, json};
use syntha::sqlite::{KeyPlace, key_place};
use syntha::{AuditTrail, ErrorKind, UserManager};

use crate::keys::table;
use crate::opening::{Access, Opening, Sealing};
use crate::settings::Audit as Policy;
use crate::{Answer, Result};

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Right,
    /// Could be better.
    Warning,
    /// Is wrong, or was not looked at because something is.
    Failure,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::Right => "right",
            Self::Warning => "warning",
            Self::Failure => "FAILURE",
        }
    }
}

struct Finding {
    check: &'static str,
    state: State,
    says: String,
}

#[derive(Default)]
struct Report(Vec<Finding>);

impl Report {
    fn right(&mut self, check: &'static str, says: impl Into<String>) {
        self.0.push(Finding { check, state: State::Right, says: says.into() });
    }

    fn warning(&mut self, check: &'static str, says: impl Into<String>) {
        self.0.push(Finding { check, state: State::Warning, says: says.into() });
    }

    fn failure(&mut self, check: &'static str, says: impl Into<String>) {
        self.0.push(Finding { check, state: State::Failure, says: says.into() });
    }

    fn count(&self, state: State) -> usize {
        self.0.iter().filter(|finding| finding.state == state).count()
    }
}

/// What was found, and whether nothing of it is a failure.
pub(crate) async fn run(opening: &Opening, shared: bool) -> Result<(Answer, bool)> {
    let mut report = Report::default();
    if files(opening, &mut report)? {
        inside(opening, shared, &mut report).await;
    }
    let mut rows: Vec<Vec<String>> = vec![["check", "", ""].map(str::to_owned).to_vec()];
    rows.extend(
        report
            .0
            .iter()
            .map(|finding| vec![finding.check.into(), finding.state.name().into(), finding.says.clone()]),
    );
    let (failures, warnings) = (report.count(State::Failure), report.count(State::Warning));
    let mut lines = table(&rows);
    lines.push(String::new());
    lines.push(format!("{failures} failures, {warnings} warnings"));
    let findings: Value = report
        .0
        .iter()
        .map(|finding| {
            let state = finding.state.name().to_lowercase();
            json!({ "check": finding.check, "state": state, "says": finding.says })
        })
        .collect();
    let value = json!({ "findings": findings, "failures": failures, "warnings": warnings });
    Ok((Answer { lines, value }, failures == 0))
}

/// Looks at the files from outside. Says whether there is something to open.
fn files(opening: &Opening, report: &mut Report) -> Result<bool> {
    let settings = &opening.settings;
    let (check, data) = match &settings.database {
        Some(database) => {
            if database.is_open_on_the_way() {
                report.warning(
                    "connection",
                    "the server is elsewhere and is not asked who it is: use sslmode=verify-full in the URL",
                );
            } else {
                report.right("connection", "the server is on this machine, or proves who it is");
            }
            ("state folder", &settings.state)
        }
        None => ("data folder", &settings.data),
    };
    let Some(device) = folder(check, data, report) else { return Ok(false) };
    let is_sealed = match key_place(data) {
        Ok(KeyPlace::Here) => {
            report.warning(
                "sealing",
                "the data is not sealed: whoever has the disk, or the database, reads it",
            );
            false
        }
        Ok(KeyPlace::Elsewhere) => {
            report.right("sealing", "the data is sealed");
            true
        }
        Ok(_) => {
            let says = match &settings.database {
                Some(_) => {
                    "the state folder holds no deployment's key: `syntha postgres install` makes one for a new database"
                }
                None => "there is no data in the folder",
            };
            report.failure("sealing", says);
            return Ok(false);
        }
        Err(error) => {
            report.failure("sealing", error.to_string());
            return Ok(false);
        }
    };
    if !is_sealed {
        return Ok(true);
    }
    // The data is not on this machine's disk, as far as this program knows.
    let device = Some(device).filter(|_| settings.database.is_none());
    if let Some(path) = opening.key_file().filter(|_| !matches!(opening.sealing, Sealing::Plain)) {
        key_file(&path, device, report);
    }
    if let Some(of_keys) = folder("keystore", &opening.keystore(), report) {
        let Some(device) = device else {
            report.right("keystore apart", "the keystore is not in the database");
            return Ok(true);
        };
        if of_keys == device {
            report.warning(
                "keystore apart",
                "keystore and data are on one file system: an erasure does not reach copies of the whole of it",
            );
        } else {
            report.right("keystore apart", "keystore and data are on two file systems");
        }
    }
    Ok(true)
}

/// The folder's device.
fn folder(check: &'static str, path: &Path, report: &mut Report) -> Option<u64> {
    let found = match path.metadata() {
        Ok(found) => found,
        Err(error) => {
            report.failure(check, format!("can't look at {}: {error}", path.display()));
            return None;
        }
    };
    if !found.is_dir() {
        report.failure(check, format!("{} is no folder", path.display()));
        return None;
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        report.failure(check, format!("{} is another account's, use `chown`", path.display()));
    } else if found.mode() & 0o077 != 0 {
        report.failure(check, format!("{} is open to others, use `chmod 700`", path.display()));
    } else {
        report.right(check, format!("{} is this account's alone", path.display()));
    }
    Some(found.dev())
}

fn key_file(path: &Path, of_data: Option<u64>, report: &mut Report) {
    let found = match path.symlink_metadata() {
        Ok(found) => found,
        Err(error) => {
            return report.failure("key file", format!("can't look at {}: {error}", path.display()));
        }
    };
    let wrong = if !found.is_file() {
        Some("is not a plain file")
    } else if found.uid() != rustix::process::geteuid().as_raw() && found.uid() != 0 {
        Some("is another account's, use `chown`")
    } else if !matches!(found.mode() & 0o7777, 0o600 | 0o400) {
        Some("is open to others, use `chmod 600`")
    } else if found.nlink() > 1 {
        Some("has a second name, remove it")
    } else {
        None
    };
    match wrong {
        Some(wrong) => report.failure("key file", format!("{} {wrong}", path.display())),
        None => report.right("key file", format!("{} is this account's alone", path.display())),
    }
    let Some(of_data) = of_data else {
        return report.right("key apart", "the key is not in the database");
    };
    if found.dev() == of_data {
        report.warning("key apart", "key and data are on one file system: who has the disk has both");
    } else {
        report.right("key apart", "key and data are on two file systems");
    }
}

/// Opens the data and looks at it.
async fn inside(opening: &Opening, shared: bool, report: &mut Report) {
    let access = if shared { Access::Shared } else { Access::Alone };
    let opened = match opening.open(access).await {
        Err(error) if crate::kind_of(&*error) == Some(ErrorKind::Locked) => {
            report.right("holder", "another process holds the data, looking at it beside it");
            opening.open(Access::Beside).await
        }
        opened => opened,
    };
    let users = match opened {
        Ok((users, _host)) => users,
        Err(error) => return report.failure("opens", error.to_string()),
    };
    match users.sealing() {
        Some(mode) => {
            report.right("opens", format!("the keystore opens with the key, the mode is `{mode}`"));
        }
        None => report.right("opens", "the data opens"),
    }
    look(&users, report).await;
    trail(opening, &users, report).await;
    if let Err(error) = users.shutdown().await {
        report.failure("closes", error.to_string());
    }
}

/// The audit trail, and who keeps its key.
async fn trail(opening: &Opening, users: &UserManager, report: &mut Report) {
    let Some(trail) = users.audit() else {
        if matches!(opening.settings.audit, Some(Policy::Off)) {
            return report.right("audit trail", "the data has none, as is asked");
        }
        return report.warning(
            "audit trail",
            "the data has none, so nobody finds what is changed behind it: `--audit buffered` begins one, `--audit off` says that none is meant",
        );
    };
    let late = trail.backlog();
    if late.broken > 0 {
        let says = format!("{} trails do not go on from where they were logged: verify them", late.broken);
        report.failure("audit trail", says);
    } else {
        report.right("audit trail", "what is done is written into it");
    }
    let path = opening.audit_key_file();
    match (path.metadata(), data_on_disk(opening)) {
        (Ok(_), None) => report.right("audit key apart", "the signing key is not in the database"),
        (Ok(key), Some(Ok(data))) if key.dev() == data.dev() => report.warning(
            "audit key apart",
            "signing key and data are on one file system: who has the disk can sign another past",
        ),
        (Ok(_), Some(Ok(_))) => {
            report.right("audit key apart", "signing key and data are on two file systems")
        }
        (Err(error), _) | (_, Some(Err(error))) => {
            report.failure("audit key apart", format!("can't look at {}: {error}", path.display()));
        }
    }
    if late.failing > 0 {
        let says = format!(
            "the data of {} users can't be read, so what they do is not signed or delivered yet: it is tried again",
            late.failing
        );
        report.warning("audit behind", says);
    }
    if late.anchored {
        report.right("audit anchor", "somebody outside is told of the trail");
    } else {
        report.warning(
            "audit anchor",
            "no outside anchor, nobody outside is told of the trail: copy checkpoints (`syntha audit checkpoint`) elsewhere",
        );
    }
    if let Some(opened) = trail.opened() {
        let says = format!("{} of the log's {} leaves were read", opened.read, opened.leaves);
        report.right("audit start", says);
    }
    if let Err(error) = trail_sizes(users, &trail, report).await {
        report.failure("audit size", error.to_string());
    }
}

/// The data's folder, where it is one.
fn data_on_disk(opening: &Opening) -> Option<std::io::Result<std::fs::Metadata>> {
    let settings = &opening.settings;
    settings.database.is_none().then(|| settings.data.metadata())
}

/// Whose trail is about to reach its limit. One that can't be looked at is told of elsewhere.
async fn trail_sizes(users: &UserManager, trail: &AuditTrail<'_>, report: &mut Report) -> syntha::Result<()> {
    let (mut tight, mut after) = (Vec::new(), None);
    loop {
        let page = users.list(after, 1_000).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.tag);
        for entry in page {
            if let Ok(Some(size)) = trail.size(&entry.user).await
                && size.is_tight()
            {
                tight.push(format!("{} has {} of {} bytes", entry.user.as_str(), size.bytes, size.limit));
            }
        }
    }
    if tight.is_empty() {
        report.right("audit size", "every user's trail is below nine tenths of its limit");
    } else {
        let whose = tight.join("; ");
        report.warning(
            "audit size",
            format!("prune them (`syntha audit prune`), or raise --audit-limit, before writes are refused: {whose}"),
        );
    }
    Ok(())
}

async fn look(users: &UserManager, report: &mut Report) {
    match users.verify().await {
        Ok(checked) => report.right("engine", checked.passed.join(", ")),
        Err(error) => report.failure("engine", error.to_string()),
    }
    match users.unfinished_erasures().await {
        Ok(tags) if tags.is_empty() => report.right("erasures", "none is unfinished"),
        Ok(tags) => {
            let tags: Vec<_> = tags.iter().map(ToString::to_string).collect();
            report.failure("erasures", format!("data is left of erased users: {}", tags.join(", ")));
        }
        Err(error) => report.failure("erasures", error.to_string()),
    }
    let is_sealed = users.sealing().is_some();
    let result = if is_sealed { keys(users, report).await } else { Ok(()) };
    if let Err(error) = result {
        report.failure("keys", error.to_string());
    }
}

async fn keys(users: &UserManager, report: &mut Report) -> syntha::Result<()> {
    if users.passphrase_is_outdated().await? {
        report.warning(
            "passphrase",
            "it is turned into a key with less work than a new one would be: `syntha keys rewrap` changes that",
        );
    }
    let wrapping = users.wrapping_status().await?;
    if wrapping.is_finished() {
        report.right("key that wraps", "all keys are under one");
    } else {
        report.warning("key that wraps", "a change of it has not ended: do it again");
    }
    let (mut there, mut rotating, mut wrong) = (0_u64, Vec::new(), Vec::new());
    match users.deployment_key_status(false).await {
        Ok(status) if status.target.is_some() => rotating.push("the deployment".to_owned()),
        Ok(_) => {}
        Err(error) => wrong.push(format!("the deployment: {error}")),
    }
    let mut after = None;
    loop {
        let page = users.list(after, 1_000).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.tag);
        for entry in page {
            match users.key_status(entry.user.clone(), false).await {
                Ok(status) => {
                    there += 1;
                    if status.target.is_some() {
                        rotating.push(entry.user.as_str().to_owned());
                    }
                }
                // Who has not written has no keys.
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Erased) => {}
                Err(error) => wrong.push(format!("{}: {error}", entry.user.as_str())),
            }
        }
    }
    if wrong.is_empty() {
        report.right("users' keys", format!("the keys of {there} users are there"));
    } else {
        report.failure("users' keys", wrong.join("; "));
    }
    if rotating.is_empty() {
        report.right("rotations", "none is unfinished");
    } else {
        let whose = rotating.join(", ");
        report.warning("rotations", format!("unfinished, `syntha keys rotate` goes on: {whose}"));
    }
    Ok(())
}
