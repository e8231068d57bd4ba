//! Which data, and which key: from flags, then the environment, then a file.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, ValueEnum};
use serde::Deserialize;

use crate::Result;
use crate::limits::Limits;
use crate::postgres::{Database, Owner, Walls, has_password};

#[derive(Args)]
pub(crate) struct Flags {
    /// The data folder. Default: `data`
    #[arg(long, global = true, env = "SYNTHA_DATA", value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// A PostgreSQL database in the place of a data folder: `postgres://role@host/database`. A password in it is not taken from the command
    /// line, where others read it: give it with the variable or in the settings file, or in PGPASSFILE or PGPASSWORD
    #[arg(long, global = true, env = "SYNTHA_POSTGRES", value_name = "URL", hide_env_values = true)]
    postgres: Option<String>,
    /// How users are kept apart in it; stays as it was installed. Default: `schema`
    #[arg(long = "mode", global = true, env = "SYNTHA_POSTGRES_MODE", value_enum, value_name = "MODE")]
    walls: Option<Walls>,
    /// With a database: the folder of the deployment's keys. Default: `state`
    #[arg(long, global = true, env = "SYNTHA_STATE", value_name = "FOLDER")]
    state_folder: Option<PathBuf>,
    /// To prepare a database: its URL with the role that owns the tables
    #[arg(long, global = true, env = "SYNTHA_POSTGRES_OWNER", value_name = "URL", hide_env_values = true)]
    postgres_owner: Option<String>,
    /// To prepare a database: the application's role. Default: `syntha_app`
    #[arg(long, global = true, env = "SYNTHA_POSTGRES_ROLE", value_name = "ROLE")]
    postgres_role: Option<String>,
    /// A settings file. Default: `syntha.toml` in the working folder, if it is there
    #[arg(long, global = true, env = "SYNTHA_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The file of the key that the data is sealed with. Default: the data folder's name with `.key` after it
    #[arg(long, global = true, env = "SYNTHA_KEY_FILE", value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// The environment variable that holds the key
    #[arg(long, global = true, env = "SYNTHA_KEY_ENV", value_name = "VARIABLE")]
    key_env: Option<String>,
    /// The file whose first line is the passphrase that the data is sealed with; `-` is the standard input
    #[arg(long, global = true, env = "SYNTHA_PASSPHRASE_FILE", value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// The folder of the wrapped keys. Default: the data folder's name with `.keys` after it
    #[arg(long, global = true, env = "SYNTHA_KEYSTORE", value_name = "FOLDER")]
    keystore: Option<PathBuf>,
    /// The data is not sealed
    #[arg(long, global = true, env = "SYNTHA_PLAIN", value_parser = clap::builder::FalseyValueParser::new())]
    plain: bool,
    /// For a new data folder: values and messages are sealed, names of keys, topics and agents are not
    #[arg(long, global = true, env = "SYNTHA_VALUES", value_parser = clap::builder::FalseyValueParser::new())]
    values: bool,
    /// What the audit trail is told. Without it, a new folder has one (`buffered`), data that has one goes on with it, and other data gets none
    #[arg(long, global = true, env = "SYNTHA_AUDIT", value_enum, value_name = "POLICY")]
    audit: Option<Audit>,
    /// The file of the key that signs the audit log; asks for a trail. Default: the data folder's name with `.audit.key` after it
    #[arg(long, global = true, env = "SYNTHA_AUDIT_KEY_FILE", value_name = "FILE")]
    audit_key_file: Option<PathBuf>,
    /// How many bytes each user's audit trail may have, 65536 to 1099511627776. Default: 1073741824
    #[arg(long, global = true, env = "SYNTHA_AUDIT_LIMIT", value_name = "BYTES")]
    #[arg(value_parser = clap::value_parser!(u64).range(65_536..=1_099_511_627_776))]
    audit_limit: Option<u64>,
    /// The address of the Vault or OpenBao that the key is kept in
    #[cfg(feature = "vault")]
    #[arg(long, global = true, env = "SYNTHA_VAULT", value_name = "ADDRESS")]
    vault: Option<String>,
    /// The key's name there
    #[cfg(feature = "vault")]
    #[arg(long, global = true, env = "SYNTHA_VAULT_KEY", value_name = "NAME")]
    vault_key: Option<String>,
    /// The file that holds the token for it
    #[cfg(feature = "vault")]
    #[arg(long, global = true, env = "SYNTHA_VAULT_TOKEN_FILE", value_name = "FILE")]
    vault_token_file: Option<PathBuf>,
    /// For a user who holds the keys: the file whose first line is the user's passphrase; `-` is the standard input
    #[arg(long, global = true, env = "SYNTHA_USER_PASSPHRASE_FILE", value_name = "FILE")]
    user_passphrase_file: Option<PathBuf>,
    /// The file whose first line is an access token or a session's id: it opens its own user's data, and nothing else; `-` is the standard
    /// input
    #[arg(long, global = true, env = "SYNTHA_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// What the audit trail is told.
#[derive(Clone, Copy, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Audit {
    /// There is no trail; data that has one is refused
    Off,
    /// Changes, and what was refused
    Writes,
    /// That, and reads, within a second
    Buffered,
    /// That, and reads before they are answered
    Strict,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    postgres: Option<String>,
    mode: Option<Walls>,
    state_folder: Option<PathBuf>,
    postgres_owner: Option<String>,
    postgres_role: Option<String>,
    data: Option<PathBuf>,
    key_file: Option<PathBuf>,
    key_env: Option<String>,
    passphrase_file: Option<PathBuf>,
    keystore: Option<PathBuf>,
    #[serde(default)]
    plain: bool,
    #[serde(default)]
    values: bool,
    audit: Option<Audit>,
    audit_key_file: Option<PathBuf>,
    audit_limit: Option<u64>,
    /// What every user may use, unless the user's plan or own limits say otherwise.
    #[serde(default)]
    limits: Limits,
    /// What users of a plan may use.
    #[serde(default)]
    plans: BTreeMap<String, Limits>,
    #[cfg(feature = "vault")]
    vault: Option<String>,
    #[cfg(feature = "vault")]
    vault_key: Option<String>,
    #[cfg(feature = "vault")]
    vault_token_file: Option<PathBuf>,
}

/// What a command works on.
pub(crate) struct Settings {
    /// The data folder. With a database, what stands for one in the names of the files in the state folder.
    pub(crate) data: PathBuf,
    /// The database in its place.
    pub(crate) database: Option<Database>,
    pub(crate) walls: Walls,
    pub(crate) state: PathBuf,
    pub(crate) owner: Option<Owner>,
    pub(crate) app_role: Option<String>,
    /// `None`: as the library does, which seals new data and opens what is there as it was made.
    pub(crate) source: Option<Source>,
    pub(crate) keystore: Option<PathBuf>,
    pub(crate) values: bool,
    pub(crate) user_passphrase: Option<PathBuf>,
    pub(crate) token: Option<PathBuf>,
    pub(crate) audit: Option<Audit>,
    pub(crate) audit_key_file: Option<PathBuf>,
    pub(crate) audit_limit: Option<u64>,
    pub(crate) limits: Limits,
    pub(crate) plans: BTreeMap<String, Limits>,
}

/// Where the key is.
pub(crate) enum Source {
    /// There is none.
    Plain,
    File(PathBuf),
    Variable(String),
    Passphrase(PathBuf),
    #[cfg(feature = "vault")]
    Vault {
        address: String,
        key: String,
        token_file: PathBuf,
    },
}

/// Puts the layers together. `matches` tells which of them a flag's value is from.
pub(crate) fn settle(flags: Flags, matches: &ArgMatches) -> Result<Settings> {
    let file = match &flags.config {
        Some(path) => read(path)?,
        None if Path::new("syntha.toml").exists() => read(Path::new("syntha.toml"))?,
        None => File::default(),
    };
    let from = |name: &str, source| matches.value_source(name) == Some(source);
    // INVARIANT: the key is the one of the first layer that names any. Two of one layer are never chosen from.
    let mut source = None;
    for layer in [ValueSource::CommandLine, ValueSource::EnvVariable] {
        let named = Named {
            key_file: flags.key_file.clone().filter(|_| from("key_file", layer)),
            key_env: flags.key_env.clone().filter(|_| from("key_env", layer)),
            passphrase_file: flags.passphrase_file.clone().filter(|_| from("passphrase_file", layer)),
            plain: flags.plain && from("plain", layer),
            #[cfg(feature = "vault")]
            vault: flags.vault.clone().filter(|_| from("vault", layer)),
        };
        if source.is_none() {
            source = named.one()?;
        }
    }
    let in_file = Named {
        key_file: file.key_file,
        key_env: file.key_env,
        passphrase_file: file.passphrase_file,
        plain: file.plain,
        #[cfg(feature = "vault")]
        vault: file.vault,
    };
    if source.is_none() {
        source = in_file.one()?;
    }
    let sealing = from("keystore", ValueSource::CommandLine)
        || (flags.values && from("values", ValueSource::CommandLine));
    if matches!(source, Some(Source::Plain)) && sealing {
        return Err("plain data is not sealed: it goes with neither --keystore nor --values".into());
    }
    #[cfg(feature = "vault")]
    if let Some(Source::Vault { key, token_file, .. }) = &mut source {
        let missing = "a vault needs --vault-key and --vault-token-file as well";
        *key = flags.vault_key.or(file.vault_key).ok_or(missing)?;
        *token_file = flags.vault_token_file.or(file.vault_token_file).ok_or(missing)?;
    }
    for (flag, url) in [("postgres", &flags.postgres), ("postgres_owner", &flags.postgres_owner)] {
        if url.as_deref().is_some_and(has_password) && from(flag, ValueSource::CommandLine) {
            return Err(PASSWORD_IN_SIGHT.into());
        }
    }
    let state = flags.state_folder.or(file.state_folder).unwrap_or_else(|| "state".into());
    let walls = flags.walls.or(file.mode).unwrap_or_default();
    let mut place = None;
    for layer in [ValueSource::CommandLine, ValueSource::EnvVariable] {
        let data = flags.data.clone().filter(|_| from("data", layer));
        let postgres = flags.postgres.clone().filter(|_| from("postgres", layer));
        if place.is_none() {
            place = one_place(data, postgres)?;
        }
    }
    if place.is_none() {
        place = one_place(file.data, file.postgres)?;
    }
    let (data, database) = match place {
        Some(Place::Folder(data)) => (data, None),
        Some(Place::Database(url)) => (state.join("data"), Some(Database { url, walls })),
        None => ("data".into(), None),
    };
    let app_role = flags.postgres_role.or(file.postgres_role);
    Ok(Settings {
        data,
        database,
        walls,
        state,
        owner: flags
            .postgres_owner
            .or(file.postgres_owner)
            .map(|url| Owner { url, app_role: app_role.clone() }),
        app_role,
        source,
        keystore: flags.keystore.or(file.keystore),
        values: flags.values || file.values,
        user_passphrase: flags.user_passphrase_file,
        token: flags.token_file,
        audit: flags.audit.or(file.audit),
        audit_key_file: flags.audit_key_file.or(file.audit_key_file),
        audit_limit: flags.audit_limit.or(file.audit_limit),
        limits: file.limits,
        plans: file.plans,
    })
}

/// Where the data is.
enum Place {
    Folder(PathBuf),
    Database(String),
}

/// INVARIANT: as with keys, two places of one layer are never chosen from.
fn one_place(data: Option<PathBuf>, postgres: Option<String>) -> Result<Option<Place>> {
    match (data, postgres) {
        (Some(_), Some(_)) => Err("data and postgres are given: give one of them".into()),
        (data, postgres) => Ok(data.map(Place::Folder).or(postgres.map(Place::Database))),
    }
}

const PASSWORD_IN_SIGHT: &str = "everybody on this machine can read a password on a command line: change it, and give the URL in \
    SYNTHA_POSTGRES, in a settings file of rights 0600, or without its password beside PGPASSFILE";

/// The keys that one layer names.
struct Named {
    key_file: Option<PathBuf>,
    key_env: Option<String>,
    passphrase_file: Option<PathBuf>,
    plain: bool,
    #[cfg(feature = "vault")]
    vault: Option<String>,
}

impl Named {
    fn one(self) -> Result<Option<Source>> {
        let mut sources = vec![
            ("key-file", self.key_file.map(Source::File)),
            ("key-env", self.key_env.map(Source::Variable)),
            ("passphrase-file", self.passphrase_file.map(Source::Passphrase)),
            ("plain", self.plain.then_some(Source::Plain)),
        ];
        #[cfg(feature = "vault")]
        sources.push((
            "vault",
            self.vault.map(|address| Source::Vault {
                address,
                key: String::new(),
                token_file: PathBuf::new(),
            }),
        ));
        sources.retain(|(_, source)| source.is_some());
        if let [(one, _), (other, _), ..] = &sources[..] {
            return Err(format!("{one} and {other} are given: give one of them").into());
        }
        Ok(sources.into_iter().next().and_then(|(_, source)| source))
    }
}

fn read(path: &Path) -> Result<File> {
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("can't read {}: {error}", path.display()))?;
    let file: File = toml::from_str(&text).map_err(|error| {
        // The error shows the line, in which a password may stand.
        if text.contains("://") {
            let line =
                error.span().map_or(0, |span| text.get(..span.start).unwrap_or_default().lines().count());
            return format!("{} is not a settings file: look at line {}", path.display(), line.max(1));
        }
        format!("{} is not a settings file: {error}", path.display())
    })?;
    let urls = [&file.postgres, &file.postgres_owner];
    if urls.iter().any(|url| url.as_deref().is_some_and(has_password)) && is_open_to_others(path)? {
        return Err(
            format!("{} holds a password and is open to others, use `chmod 600`", path.display()).into()
        );
    }
    Ok(file)
}

fn is_open_to_others(path: &Path) -> Result<bool> {
    let found = path.metadata().map_err(|error| format!("can't look at {}: {error}", path.display()))?;
    Ok(found.mode() & 0o077 != 0)
}
