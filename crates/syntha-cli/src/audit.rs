//! The audit trail: shown, verified, exported, signed.

#![allow(clippy::indexing_slicing, reason = "a JSON value answers null for what is absent")]

use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use syntha::trail::verify::{Checkpoint, Report, TrustedKeys, Verdict, Verifier};
use syntha::{AuditEntry, AuditQuery, AuditReport, AuditScope, AuditTrail, Timestamp, UserId, UserManager};

use crate::opening::{Access, Opening};
use crate::{Answer, Result};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Shows what was done, and what was refused
    Show(Show),
    /// Verifies a trail: the one of the data, or a file, for which neither data nor keys are needed
    Verify(Verify),
    /// Writes a trail for an auditor, see docs/audit-v1.md
    Export(Export),
    /// Logs and signs what was not yet, and prints the checkpoint: keep a copy where whoever can write the data can't
    Checkpoint,
    /// Prints the keys that checkpoints are verified with
    Keys,
    /// Removes entries before one, for good; what is left still verifies
    Prune(Prune),
    /// Makes a new signing key for the checkpoints from now on
    RotateSigner,
    /// Makes a signing key in the place of a lost one, which vouches for the log as it is
    ReplaceSigner(ReplaceSigner),
}

#[derive(Args)]
pub(crate) struct ReplaceSigner {
    /// A checkpoint that was kept elsewhere, which the log must go on from; without one, nothing shows whether the data was put back
    #[arg(long, requires = "keys", value_name = "FILE")]
    known: Option<PathBuf>,
    /// The keys that it must be signed with, as `audit keys` printed them at another time
    #[arg(long, requires = "known", value_name = "FILE")]
    keys: Option<PathBuf>,
    /// Really
    #[arg(long)]
    yes: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Whose {
    /// This user's
    #[arg(long)]
    user: Option<String>,
    /// The deployment's own: who was made, erased, archived, restored and refused
    #[arg(long)]
    deployment: bool,
    /// Everybody's
    #[arg(long)]
    all: bool,
}

impl Whose {
    fn scope(&self) -> Result<AuditScope> {
        Ok(match &self.user {
            Some(user) => AuditScope::User(UserId::new(user.as_str())?),
            None if self.all => AuditScope::All,
            None => AuditScope::Deployment,
        })
    }
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum Format {
    /// Columns
    #[default]
    Table,
    /// One JSON object a line
    Json,
    /// Comma-separated values (RFC 4180) with a head line
    Csv,
}

#[derive(Args)]
pub(crate) struct Show {
    #[command(flatten)]
    whose: Whose,
    /// Only entries after this one: where the page before ended
    #[arg(long, default_value_t = 0)]
    after: u64,
    /// About how many entries, 1 to 10,000
    #[arg(long, default_value_t = 100)]
    limit: usize,
    /// Not before this time, in milliseconds since the Unix epoch
    #[arg(long, value_name = "MILLISECONDS")]
    since: Option<u64>,
    /// Before this time, in milliseconds since the Unix epoch
    #[arg(long, value_name = "MILLISECONDS")]
    until: Option<u64>,
    /// Only by this agent
    #[arg(long)]
    agent: Option<String>,
    /// Only this action, as it is shown
    #[arg(long)]
    action: Option<String>,
    /// Only with this outcome: done, nothing, denied or failed
    #[arg(long)]
    outcome: Option<String>,
    /// How it is printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    of: VerifyWhat,
    /// Compares every record with the trail as well
    #[arg(long, conflicts_with = "file")]
    state: bool,
    /// For a file: the keys that its checkpoints must be signed with, as `audit keys` printed them at another time
    #[arg(long, requires = "file", value_name = "FILE")]
    keys: Option<PathBuf>,
    /// For a file: a checkpoint from another time, which the file's must go on from
    #[arg(long, requires = "keys", value_name = "FILE")]
    known: Option<PathBuf>,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct VerifyWhat {
    /// This user's
    #[arg(long)]
    user: Option<String>,
    /// The deployment's own
    #[arg(long)]
    deployment: bool,
    /// Everybody's
    #[arg(long)]
    all: bool,
    /// A trail that `audit export` or a sink wrote
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Export {
    #[command(flatten)]
    whose: Whose,
    /// The file; it must not exist
    file: PathBuf,
    /// Without details: it verifies as well, and does not say who did what
    #[arg(long)]
    redacted: bool,
}

#[derive(Args)]
pub(crate) struct Prune {
    /// The user's id
    #[arg(required_unless_present = "deployment", conflicts_with = "deployment")]
    user: Option<String>,
    /// The first entry that stays
    #[arg(required_unless_present = "before", conflicts_with = "before", value_name = "BEFORE")]
    first: Option<u64>,
    /// The deployment's own entries
    #[arg(long)]
    deployment: bool,
    /// The first entry that stays
    #[arg(long, value_name = "ENTRY")]
    before: Option<u64>,
    /// Really
    #[arg(long)]
    yes: bool,
}

impl Command {
    pub(crate) fn user(&self) -> Option<&str> {
        match self {
            Self::Show(show) => show.whose.user.as_deref(),
            Self::Verify(verify) => verify.of.user.as_deref(),
            Self::Export(export) => export.whose.user.as_deref(),
            Self::Prune(prune) => prune.user.as_deref(),
            Self::Checkpoint | Self::Keys | Self::RotateSigner | Self::ReplaceSigner(_) => None,
        }
    }

    /// The file that it verifies, for which no data is opened.
    pub(crate) fn file(&self) -> Option<&Verify> {
        match self {
            Self::Verify(verify) if verify.of.file.is_some() => Some(verify),
            _ => None,
        }
    }
}

pub(crate) async fn run(command: Command, users: &UserManager) -> Result<(Answer, bool)> {
    let trail = users.audit().ok_or("the data has no audit trail: open it with --audit to begin one")?;
    let answer = match command {
        Command::Show(show) => self::show(show, trail).await?,
        Command::Verify(verify) => return self::verify(&verify, trail).await,
        Command::Export(export) => self::export(&export, trail).await?,
        Command::Checkpoint => {
            let checkpoint = trail.checkpoint().await?;
            let value = json!({ "size": checkpoint.head.size, "checkpoint": &*checkpoint.note });
            Answer { lines: checkpoint.note.lines().map(str::to_owned).collect(), value }
        }
        Command::Keys => {
            let keys = trail.keys().await?;
            Answer { lines: keys.lines().map(str::to_owned).collect(), value: json!({ "keys": keys }) }
        }
        Command::Prune(Prune { yes: false, .. }) => {
            return Err("this can't be undone, add --yes if you mean it".into());
        }
        Command::Prune(Prune { user, first, before, .. }) => {
            let before = first.or(before).ok_or("name the first entry that stays")?;
            let pruned = match user {
                Some(user) => trail.prune(&UserId::new(user.as_str())?, before).await?,
                None => trail.prune_deployment(before).await?,
            };
            let line = format!("removed {} entries; the first one left is {}", pruned.links, pruned.first);
            Answer { lines: vec![line], value: json!({ "removed": pruned.links, "first": pruned.first }) }
        }
        Command::RotateSigner => {
            let note = trail.rotate_signer().await?;
            let lines = note.lines().map(str::to_owned).collect();
            Answer { lines, value: json!({ "handover": note }) }
        }
        // `main` sends it elsewhere: it opens the data otherwise.
        Command::ReplaceSigner(_) => return Err("the command opens the data itself".into()),
    };
    Ok((answer, true))
}

/// Opens the data with a new key, which signs at once.
pub(crate) async fn replace_signer(replace: &ReplaceSigner, opening: Opening, access: Access) -> Result {
    if !replace.yes {
        return Err(
            "the new key vouches for the log as it lies in the data, and nobody can tell whether that is all of it; what the lost key signed \
             verifies with its public key alone, and auditors must be told the new one: add --yes if the key is lost for good"
                .into(),
        );
    }
    let known = match (&replace.known, &replace.keys) {
        (Some(known), Some(keys)) => {
            Some(Checkpoint::parse(&read(known)?, &TrustedKeys::parse(&read(keys)?)?)?)
        }
        _ => None,
    };
    let was_known = known.is_some();
    let path = opening.audit_key_file();
    let (users, _host) = opening.replacing(known).open(access).await?;
    let done = replaced(&users).await;
    users.shutdown().await?;
    let (key, note, size) = done?;
    let mut lines = vec![
        format!("made the key file {}: copy it to a place apart from the data", path.display()),
        format!(
            "it signs the log from {size} leaves on; what was signed before verifies with the lost key's public key alone"
        ),
    ];
    lines.push(
        if was_known {
            "the log goes on from the known checkpoint"
        } else {
            "no checkpoint was known: nobody can tell whether the data was put back to an older state before this"
        }
        .into(),
    );
    lines.push("tell auditors this key by a way of their own, beside those that they have:".into());
    lines.extend(key.lines().map(str::to_owned));
    lines.push("and keep this checkpoint where whoever can write the data can't:".into());
    lines.extend(note.lines().map(str::to_owned));
    let value =
        json!({ "key_file": path, "keys": key, "checkpoint": note, "from": size, "known": was_known });
    Ok(Answer { lines, value })
}

/// The keys, and the first checkpoint of the new one with its size.
async fn replaced(users: &UserManager) -> Result<(String, String, u64)> {
    let trail = users.audit().ok_or("the data has no audit trail")?;
    let checkpoint = trail.checkpoint().await?;
    Ok((trail.keys().await?, checkpoint.note.to_string(), checkpoint.head.size))
}

/// A member of a closed set by the name that it is shown under.
fn named<T: DeserializeOwned>(what: &str, name: Option<&str>) -> Result<Option<T>> {
    name.map(|name| {
        serde_json::from_value(Value::String(name.to_owned()))
            .map_err(|_| format!("there is no {what} `{name}`").into())
    })
    .transpose()
}

async fn show(show: Show, trail: AuditTrail<'_>) -> Result {
    let mut query = AuditQuery::new().after(show.after).limit(show.limit);
    if let Some(at) = show.since {
        query = query.since(Timestamp(at));
    }
    if let Some(at) = show.until {
        query = query.until(Timestamp(at));
    }
    if let Some(agent) = show.agent {
        query = query.agent(agent);
    }
    if let Some(action) = named("action", show.action.as_deref())? {
        query = query.action(action);
    }
    if let Some(verdict) = named("outcome", show.outcome.as_deref())? {
        query = query.verdict(verdict);
    }
    let page = trail.entries(&show.whose.scope()?, &query).await?;
    let values = page.entries.iter().map(value).collect::<Result<Vec<_>>>()?;
    let mut lines = match show.format {
        Format::Json => values.iter().map(Value::to_string).collect(),
        Format::Table => table(&values),
        Format::Csv => csv(&values),
    };
    if let (Some(next), Format::Table) = (page.next, show.format) {
        lines.push(format!("more with --after {next}"));
    }
    Ok(Answer { lines, value: json!({ "entries": values, "next": page.next }) })
}

/// An entry as one object.
fn value(entry: &AuditEntry) -> Result<Value> {
    let value = match &entry.event {
        Some(event) => serde_json::to_value(event)?,
        None => json!({ "at": entry.at.0, "do": format!("{:?}", entry.kind).to_lowercase(), "is": "done" }),
    };
    let Value::Object(mut value) = value else { return Err("an entry of the trail is no object".into()) };
    for side in ["by", "on"] {
        // A name, or the keyed hash that stands for one.
        let subject = value.get(side);
        let text = subject.and_then(|subject| subject.get("name").or_else(|| subject.get("tag")));
        if let Some(text) = text.and_then(Value::as_str).map(str::to_owned) {
            value.insert(side.to_owned(), text.into());
        }
    }
    if entry.closed {
        value.insert("details".to_owned(), "closed".into());
    }
    for (member, number) in [("seq", entry.seq), ("epoch", entry.epoch), ("records", entry.records)] {
        value.insert(member.to_owned(), number.into());
    }
    Ok(Value::Object(value))
}

const COLUMNS: [&str; 10] = ["seq", "at", "do", "is", "rule", "by", "on", "version", "n", "bytes"];

fn cells(value: &Value) -> Vec<String> {
    let cell = |column: &&str| match value.get(*column) {
        None | Some(Value::Null) if **column == *"n" => "1".to_owned(),
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    COLUMNS.iter().map(cell).collect()
}

fn table(values: &[Value]) -> Vec<String> {
    let mut rows = vec![COLUMNS.iter().map(|column| (*column).to_owned()).collect::<Vec<_>>()];
    rows.extend(values.iter().map(cells));
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..COLUMNS.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

fn csv(values: &[Value]) -> Vec<String> {
    // A spreadsheet takes a cell that begins so for a formula.
    let quote = |cell: &String| {
        let formula = cell.starts_with(['=', '+', '-', '@']);
        format!("\"{}{}\"", if formula { "'" } else { "" }, cell.replace('"', "\"\""))
    };
    let line = |value: &Value| cells(value).iter().map(quote).collect::<Vec<_>>().join(",");
    std::iter::once(COLUMNS.join(",")).chain(values.iter().map(line)).collect()
}

async fn verify(verify: &Verify, trail: AuditTrail<'_>) -> Result<(Answer, bool)> {
    let scope = match &verify.of.user {
        Some(user) => AuditScope::User(UserId::new(user.as_str())?),
        None if verify.of.all => AuditScope::All,
        None => AuditScope::Deployment,
    };
    let report = trail.verify(&scope, verify.state).await?;
    let clean = report.is_clean();
    Ok((answer_of(&report.trail, Some(&report)), clean))
}

/// Verifies a file: nothing else is opened.
pub(crate) fn verify_file(verify: &Verify) -> Result<(Answer, bool)> {
    let path = verify.of.file.as_deref().ok_or("name the trail with --file")?;
    let keys = match &verify.keys {
        Some(path) => TrustedKeys::parse(&read(path)?)?,
        None => TrustedKeys::default(),
    };
    let known = match &verify.known {
        Some(path) => Some(Checkpoint::parse(&read(path)?, &keys)?),
        None => None,
    };
    let mut verifier = Verifier::new(keys).known(known);
    let file = File::open(path).map_err(|error| format!("can't read {}: {error}", path.display()))?;
    verifier.read(BufReader::new(file))?;
    let report = verifier.finish();
    let clean = report.verdict() == Verdict::Clean;
    Ok((answer_of(&report, None), clean))
}

fn read(path: &Path) -> Result<String> {
    Ok(std::fs::read_to_string(path).map_err(|error| format!("can't read {}: {error}", path.display()))?)
}

fn answer_of(report: &Report, whole: Option<&AuditReport>) -> Answer {
    let mut lines = Vec::new();
    let mut users = Vec::new();
    for user in &report.users {
        let owner = hex(&user.owner);
        let anchored = match user.anchored_to {
            Some(to) if to >= user.to => "all of them covered by a checkpoint".to_owned(),
            Some(to) => format!("up to {to} covered by a checkpoint, the later ones by none"),
            None => "covered by no checkpoint".to_owned(),
        };
        lines.push(format!("{owner}: entries {} to {}, {anchored}", user.from, user.to));
        users.push(json!({
            "owner": owner, "from": user.from, "to": user.to, "anchored_to": user.anchored_to, "erased": user.erased,
            "events": user.events, "redacted": user.redacted }));
    }
    let mut findings = Vec::new();
    for finding in report.all() {
        let owner = finding.owner.map(|owner| hex(&owner));
        lines.push(format!(
            "WRONG: {}{}{}",
            finding.problem.code(),
            finding.seq.map(|seq| format!(", entry {seq}")).unwrap_or_default(),
            owner.as_ref().map(|owner| format!(", of {owner}")).unwrap_or_default(),
        ));
        findings.push(json!({ "problem": finding.problem.code(), "owner": owner, "seq": finding.seq, "line": finding.line }));
    }
    let mut data = Vec::new();
    let users_data = whole.into_iter().flat_map(|whole| &whole.data).map(|(tag, of)| (tag.to_string(), of));
    let own = whole.and_then(|whole| whole.deployment.as_ref()).map(|of| ("deployment".to_owned(), of));
    for (whose, report) in own.into_iter().chain(users_data) {
        lines.push(format!("{whose}: {} records compared, {} differ", report.records, report.findings.len()));
        for finding in &report.chain.findings {
            lines.push(format!("WRONG: {}, seen beside the data", finding.problem.code()));
            data.push(json!({ "user": whose, "difference": finding.problem.code(), "seq": finding.seq }));
        }
        for finding in &report.findings {
            let difference = format!("{:?}", finding.difference);
            lines.push(format!(
                "WRONG: {difference}{}{}",
                finding.place.map(|place| format!(", keyspace {}", place.space)).unwrap_or_default(),
                finding.seq.map(|seq| format!(", last written by entry {seq}")).unwrap_or_default(),
            ));
            data.push(json!({
                "user": whose, "difference": difference, "keyspace": finding.place.map(|place| place.space),
                "seq": finding.seq }));
        }
    }
    let verdict = format!("{:?}", report.verdict()).to_lowercase();
    lines.push(match report.verdict() {
        Verdict::Clean if data.is_empty() => "nothing is wrong".to_owned(),
        Verdict::Clean => "the trail is whole, and the data is not what it says".to_owned(),
        Verdict::Torn => "the file was cut: get the rest of it".to_owned(),
        Verdict::Bad => "something was changed or is missing".to_owned(),
    });
    let value = json!({ "verdict": verdict, "users": users, "findings": findings, "data": data });
    Answer { lines, value }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

async fn export(export: &Export, trail: AuditTrail<'_>) -> Result {
    let path = &export.file;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let file = file.map_err(|error| format!("can't make {}: {error}", path.display()))?;
    let begin = || {
        let mut again = file.try_clone()?;
        again.set_len(0)?;
        again.rewind()?;
        Ok(BufWriter::new(again))
    };
    let (report, mut sink) = trail.export_retried(&export.whose.scope()?, export.redacted, begin).await?;
    sink.flush()?;
    sink.get_ref().sync_all()?;
    let line = format!("wrote {} trails with {} entries", report.chains, report.links);
    let mut lines = vec![line];
    if report.moved {
        lines.push(
            "users were erased, restored or pruned all the time: a verifier may call it bad, export again"
                .to_owned(),
        );
    }
    let value = json!({ "trails": report.chains, "entries": report.links, "moved": report.moved });
    Ok(Answer { lines, value })
}
