//! Data in a PostgreSQL database: which one, and how it is prepared.

use std::path::Path;

use clap::{Subcommand, ValueEnum};
use serde::Deserialize;
use serde_json::json;
use syntha::postgres::Mode;
use syntha::{Postgres, PostgresOwner, UserManager};

use crate::opening::Opening;
use crate::{Answer, Result};

/// How users are kept apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Walls {
    /// A schema for each user
    #[default]
    Schema,
    /// Shared tables with row-level security
    Rls,
}

/// The database that a command works on.
pub(crate) struct Database {
    pub(crate) url: String,
    pub(crate) walls: Walls,
}

/// Who prepares a database.
pub(crate) struct Owner {
    pub(crate) url: String,
    pub(crate) app_role: Option<String>,
}

impl Database {
    pub(crate) fn postgres(&self, state: &Path) -> Postgres {
        let mode = match self.walls {
            Walls::Schema => Mode::Schema,
            Walls::Rls => Mode::Rls,
        };
        Postgres::new(self.url.as_str(), state).mode(mode)
    }

    /// Whether what goes over the network can be read or changed on the way: the server is elsewhere, and nobody asks who it is.
    pub(crate) fn is_open_on_the_way(&self) -> bool {
        let Some((_, rest)) = self.url.split_once("://") else { return true };
        let (place, options) = rest.split_once('?').unwrap_or((rest, ""));
        let option = |name: &str| {
            options.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)
        };
        let host = place.rsplit_once('@').map_or(place, |(_, host)| host);
        let host = host.split('/').next().unwrap_or_default();
        let named = option("host").or_else(|| option("hostaddr")).map_or(host, |(_, host)| host);
        let is_here = named.is_empty()
            || named.starts_with('/')
            || named.to_ascii_lowercase().starts_with("%2f")
            || ["localhost", "127.0.0.1", "[::1]"]
                .iter()
                .any(|own| named.split(':').next() == Some(own) || named.starts_with(own));
        !is_here
            && option("sslmode").or_else(|| option("ssl-mode")).is_none_or(|(_, mode)| mode != "verify-full")
    }
}

impl Owner {
    pub(crate) fn postgres(&self) -> PostgresOwner {
        let owner = PostgresOwner::new(self.url.as_str());
        match &self.app_role {
            Some(role) => owner.app_role(role.as_str()),
            None => owner,
        }
    }
}

/// Whether a URL has a password in it, which anybody on the machine reads from a command line.
pub(crate) fn has_password(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (place, options) = rest.split_once('?').unwrap_or((rest, ""));
    let of_role = place.rsplit_once('@').is_some_and(|(role, _)| role.contains(':'));
    of_role || options.split('&').any(|option| option.to_ascii_lowercase().starts_with("password"))
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Prepares the database with the owner's role, or brings it to this version, and makes the deployment's keys in the state folder. It can be
    /// repeated
    Install,
    /// Prints what a superuser of the server does once before: two roles and a database
    Roles {
        /// The database's name
        #[arg(long, default_value = "syntha", value_name = "NAME")]
        database: String,
        /// The owner's role
        #[arg(long, default_value = "syntha_owner", value_name = "ROLE")]
        owner: String,
    },
}

/// What `install` needs of the settings.
pub(crate) async fn install(opening: &Opening) -> Result {
    let settings = &opening.settings;
    let owner = settings.owner.as_ref().ok_or(NO_OWNER)?;
    let database = settings.database.as_ref().ok_or(NO_DATABASE)?;
    let builder = UserManager::builder().postgres_with(database.postgres(&settings.state));
    opening.sealed(builder, true)?.install(&owner.postgres()).await?;
    let state = &settings.state;
    let lines = vec![
        format!("the database is prepared, users are kept apart by {}", walls(settings.walls)),
        format!(
            "the deployment's keys are in {}: copy the folder to a place apart from the database, nothing opens without it",
            state.display()
        ),
    ];
    Ok(Answer { lines, value: json!({ "state": state, "mode": mode(settings.walls) }) })
}

const NO_DATABASE: &str = "name the database as the application will open it: its URL in SYNTHA_POSTGRES, or with --postgres where it holds no password";

pub(crate) const NO_OWNER: &str = "name the role that owns the tables: its URL in SYNTHA_POSTGRES_OWNER, or with --postgres-owner where it holds no password";

const fn walls(walls: Walls) -> &'static str {
    match walls {
        Walls::Schema => "a schema for each",
        Walls::Rls => "row-level security",
    }
}

const fn mode(walls: Walls) -> &'static str {
    match walls {
        Walls::Schema => "schema",
        Walls::Rls => "rls",
    }
}

/// The statements of a superuser. Passwords are not in them: psql's `\password` asks for one and sends it hashed.
pub(crate) fn roles(database: &str, owner: &str, app: Option<&str>) -> Result {
    let app = app.unwrap_or("syntha_app");
    for name in [database, owner, app] {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if name.is_empty()
            || name.len() > 63
            || !name.bytes().all(plain)
            || name.starts_with(|c: char| c.is_ascii_digit())
        {
            return Err(
                "names of roles and databases are of lower-case letters, digits and `_`, at most 63".into()
            );
        }
    }
    if owner == app {
        return Err("the application's role owns nothing: name another one for the owner".into());
    }
    let lines: Vec<String> = [
        format!("CREATE ROLE {owner} LOGIN NOINHERIT;"),
        format!("CREATE ROLE {app} LOGIN NOINHERIT;"),
        format!("CREATE DATABASE {database} OWNER {owner};"),
        format!("REVOKE ALL ON DATABASE {database} FROM PUBLIC;"),
        format!("GRANT CONNECT ON DATABASE {database} TO {app};"),
        "ALTER SYSTEM SET log_parameter_max_length = 0;".into(),
        "ALTER SYSTEM SET log_parameter_max_length_on_error = 0;".into(),
        "SELECT pg_reload_conf();".into(),
        format!("\\password {owner}"),
        format!("\\password {app}"),
        format!("\\connect {database}"),
        "REVOKE ALL ON SCHEMA public FROM PUBLIC;".into(),
    ]
    .into();
    let value = json!({ "statements": lines });
    Ok(Answer { lines, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_a_url_is_seen() {
        for url in [
            "postgres://app:secret@db/syntha",
            "postgres://app:@db/syntha",
            "postgres://db/syntha?user=app&password=secret",
            "postgres://db/syntha?PASSWORD=secret",
            "app:secret@db",
        ] {
            assert!(has_password(url), "{url}");
        }
        for url in [
            "postgres://app@db:5432/syntha",
            "postgres://db:5432/syntha?sslmode=verify-full",
            "postgres:///x",
        ] {
            assert!(!has_password(url), "{url}");
        }
    }

    #[test]
    fn a_server_elsewhere_is_asked_who_it_is() {
        let open = |url: &str| Database { url: url.into(), walls: Walls::Schema }.is_open_on_the_way();
        for url in [
            "postgres://a@db/x",
            "postgres://a@db:5432/x?sslmode=require",
            "postgres://a@/x?host=db",
            "nonsense",
        ] {
            assert!(open(url), "{url}");
        }
        for url in [
            "postgres://a@db/x?sslmode=verify-full",
            "postgres://a@localhost:5432/x",
            "postgres://a@[::1]:5432/x",
            "postgres://a@%2Frun%2Fpostgresql/x",
            "postgres://a@/x?host=/run/postgresql",
            "postgres:///x",
        ] {
            assert!(!open(url), "{url}");
        }
    }
}
