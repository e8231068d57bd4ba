//! What the isolation rests on, asked of the server itself.

use std::sync::Arc;

use sqlx::Row;
use sqlx::postgres::PgRow;
use syntha_store::{Error, ErrorKind, Incarnation, Result};

use crate::config::{Mode, PostgresConfig};
use crate::connections::Connections;
use crate::error::{Sent, corrupt};
use crate::install::{functions, is_current, matches};
use crate::rows;
use crate::statement::{Kind, Statement, call};
use crate::user_store::{STATE, bound};

/// The server's version, and what the database was installed with.
pub(crate) async fn server(
    connections: &Arc<Connections>,
    config: &PostgresConfig,
) -> Result<Vec<&'static str>> {
    let hello = Statement::call(Kind::Other, call!("o_mode, o_version, o_print, o_server", "hello()"));
    let row = match connections.one(hello, Sent::Read).await {
        // The schema of the functions is not there.
        Err(error) if error.kind() == ErrorKind::Gone => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the database is not prepared, run the installation",
            ));
        }
        row => row?,
    };
    let get = |_| corrupt();
    check_version(row.try_get("o_server").map_err(get)?)?;
    let (mode, version): (&str, i64) =
        (row.try_get("o_mode").map_err(get)?, row.try_get("o_version").map_err(get)?);
    matches(mode, row.try_get("o_print").map_err(get)?, config.mode, &config.key.0)?;
    is_current(version)?;
    Ok(vec!["server version", "mode and version of the functions", "deployment key"])
}

/// The first version of each line whose row-level security and statistics keep what they should: CVE-2025-8713 and its like,
/// <https://www.postgresql.org/support/security/>.
const FLOORS: [i64; 5] = [130_022, 140_019, 150_014, 160_010, 170_006];

fn check_version(version: i64) -> Result<()> {
    let old = || {
        Error::new(
            ErrorKind::Unsupported,
            "the server is older than 13.22, 14.19, 15.14, 16.10 or 17.6, upgrade it",
        )
    };
    let line = version / 10_000;
    let floor = FLOORS.iter().find(|floor| *floor / 10_000 == line);
    match floor {
        Some(floor) if version >= *floor => Ok(()),
        None if line > 17 => Ok(()),
        _ => Err(old()),
    }
}

/// A check: its name, what holds if all is in order, and what to do if not.
struct Wall {
    name: &'static str,
    query: &'static str,
    refusal: &'static str,
}

/// In every mode. Each query gives one boolean. `bool_and` passes over what is unknown, so each of its arguments says what that means.
const WALLS: &[Wall] = &[
    Wall {
        name: "the application role is nobody special",
        query: "SELECT bool_and(coalesce(NOT (r.rolsuper OR r.rolbypassrls OR r.rolcreaterole OR r.rolcreatedb OR r.rolreplication), false))
                    AND session_user = current_user
                FROM pg_catalog.pg_roles AS r WHERE pg_has_role(current_user, r.oid, 'MEMBER')",
        refusal: "the application role, or one that it is a member of, is a superuser, bypasses row-level security or may make roles: \
                  connect with a plain role",
    },
    Wall {
        name: "the application role is not the owner",
        query: "SELECT NOT pg_has_role(current_user, n.nspowner, 'MEMBER')
                    AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_class AS c WHERE c.relowner = current_user::regrole)
                    AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_proc AS p WHERE p.proowner = current_user::regrole)
                    AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_namespace AS s WHERE s.nspowner = current_user::regrole)
                    AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_database AS d WHERE d.datdba = current_user::regrole)
                FROM pg_catalog.pg_namespace AS n WHERE n.nspname = 'syntha'",
        refusal: "the application role owns something: make it own nothing, and install with another role",
    },
    Wall {
        name: "the owner is bound by policies",
        query: "SELECT NOT (r.rolsuper OR r.rolbypassrls)
                FROM pg_catalog.pg_namespace AS n JOIN pg_catalog.pg_roles AS r ON r.oid = n.nspowner WHERE n.nspname = 'syntha'",
        refusal: "the role that owns the tables is a superuser or bypasses row-level security: install with a plain role",
    },
    Wall {
        name: "no rights on tables and schemas",
        query: "SELECT NOT EXISTS (
                    SELECT 1 FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
                    WHERE (n.nspname = 'syntha' OR n.nspname = 'syntha_rows' OR n.nspname LIKE 'u\\_%') AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
                        AND (has_table_privilege(c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
                            OR has_any_column_privilege(c.oid, 'SELECT, INSERT, UPDATE, REFERENCES')))
                AND NOT EXISTS (
                    SELECT 1 FROM pg_catalog.pg_namespace AS n
                    WHERE (n.nspname = 'syntha_rows' OR n.nspname LIKE 'u\\_%') AND has_schema_privilege(n.oid, 'USAGE, CREATE')
                        OR (n.nspname = 'syntha' OR n.nspname = 'public') AND has_schema_privilege(n.oid, 'CREATE'))
                AND NOT has_database_privilege(current_database(), 'CREATE, TEMP')",
        refusal: "the application role, or everybody, has rights on tables, schemas or temporary tables: revoke them as docs/postgres.md says",
    },
    Wall {
        name: "functions are as they were installed",
        query: "SELECT coalesce(bool_and(coalesce(p.proowner = n.nspowner AND l.lanname = 'plpgsql' AND p.provolatile = 'v' AND p.proparallel = 'u'
                        AND NOT p.proretset AND p.prokind = 'f' AND p.proconfig = ARRAY['search_path=pg_catalog, pg_temp']
                        AND NOT EXISTS (
                            SELECT 1 FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a WHERE a.grantee = 0)
                        AND (p.prosecdef OR NOT has_function_privilege(p.oid, 'EXECUTE')), false)), false)
                FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
                JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang WHERE n.nspname = 'syntha'",
        refusal: "a function of the schema syntha was changed, has another path, or may be called by everybody: install it anew",
    },
    Wall {
        name: "the tenant is first in every key",
        query: "SELECT coalesce(bool_and(coalesce(a.attname = 'tenant', false)), true)
                FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.indrelid
                JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
                LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
                WHERE (n.nspname = 'syntha_rows' OR n.nspname LIKE 'u\\_%') AND c.relkind IN ('r', 'p')",
        refusal: "an index of a user's table does not begin with the tenant: drop it",
    },
    Wall {
        name: "nothing is set for roles or databases",
        query: "SELECT NOT EXISTS (
                    SELECT 1 FROM pg_catalog.pg_db_role_setting AS s, unnest(s.setconfig) AS c
                    WHERE (s.setdatabase = 0 OR s.setdatabase = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = current_database()))
                        AND split_part(lower(c), '=', 1) IN ('syntha.user', 'search_path', 'row_security', 'role', 'session_replication_role'))
                AND coalesce(current_setting('syntha.user', true), '') = ''
                AND current_setting('default_transaction_isolation') = 'read committed'
                AND current_setting('row_security') = 'on'",
        refusal: "a role, the database or the server has a setting of syntha.user, search_path or the isolation level: reset it",
    },
    Wall {
        name: "values reach no log of the server",
        query: "SELECT (current_setting('log_parameter_max_length') = '0'
                    OR (current_setting('log_min_duration_statement') = '-1' AND current_setting('log_min_duration_sample') = '-1'
                        AND current_setting('log_statement') IN ('none', 'ddl') AND current_setting('log_transaction_sample_rate') = '0'))
                AND current_setting('log_parameter_max_length_on_error') = '0'
                AND current_setting('debug_print_parse') = 'off' AND current_setting('debug_print_rewritten') = 'off'
                AND current_setting('debug_print_plan') = 'off'
                AND coalesce(current_setting('auto_explain.log_min_duration', true), '-1') = '-1'",
        refusal: "the server logs the values of statements: set log_parameter_max_length and log_parameter_max_length_on_error to 0, \
                  debug_print_parse, debug_print_rewritten and debug_print_plan to off, and auto_explain.log_min_duration to -1",
    },
];

/// In the mode `rls`.
const RLS_WALLS: &[Wall] = &[
    Wall {
        name: "policies are enabled and forced",
        query: "SELECT count(*) = 3 AND bool_and(coalesce(c.relrowsecurity AND c.relforcerowsecurity, false))
                FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
                WHERE n.nspname = 'syntha_rows' AND c.relkind IN ('r', 'p', 'v', 'm', 'f')",
        refusal: "a table of the schema syntha_rows has no forced row-level security: enable and force it",
    },
    Wall {
        name: "policies are as they were installed",
        query: "SELECT count(*) = 6 AND bool_and(coalesce(p.polcmd = '*' AND p.polroles = ARRAY[0::oid] AND CASE
                    WHEN p.polpermissive THEN p.polname = 'everyone'
                        AND pg_get_expr(p.polqual, p.polrelid) = 'true' AND pg_get_expr(p.polwithcheck, p.polrelid) = 'true'
                    ELSE p.polname = 'tenant'
                        AND pg_get_expr(p.polqual, p.polrelid) = $q$(tenant = decode(NULLIF(current_setting('syntha.user'::text, true), ''::text), 'hex'::text))$q$
                        AND pg_get_expr(p.polwithcheck, p.polrelid) = pg_get_expr(p.polqual, p.polrelid) END, false))
                    AND count(*) FILTER (WHERE NOT p.polpermissive) = 3
                FROM pg_catalog.pg_policy AS p JOIN pg_catalog.pg_class AS c ON c.oid = p.polrelid
                JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname = 'syntha_rows'",
        refusal: "a policy of the schema syntha_rows is not the one that was installed: install it anew",
    },
];

/// Roles, rights, functions, tables, policies and settings.
pub(crate) async fn walls(connections: &Arc<Connections>, mode: Mode) -> Result<Vec<&'static str>> {
    let mut passed = Vec::new();
    let of_mode: &[Wall] = match mode {
        Mode::Schema => &[],
        Mode::Rls => RLS_WALLS,
    };
    for wall in WALLS.iter().chain(of_mode) {
        let row = connections.one(Statement::question(wall.query), Sent::Read).await?;
        if !holds(&row)? {
            return Err(Error::new(ErrorKind::Refused, wall.refusal));
        }
        passed.push(wall.name);
    }
    passed.push(bodies(connections, mode).await?);
    Ok(passed)
}

/// The functions' bodies, which hold the scope and the tenant of every statement, are those of this build.
async fn bodies(connections: &Arc<Connections>, mode: Mode) -> Result<&'static str> {
    let statement = Statement::question(
        "SELECT array_agg(p.proname::text ORDER BY p.proname) AS names, array_agg(p.prosrc ORDER BY p.proname) AS bodies
         FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace WHERE n.nspname = 'syntha'",
    );
    let row = connections.one(statement, Sent::Read).await?;
    let (names, bodies): (Vec<String>, Vec<String>) =
        (rows::list(&row, "names")?, rows::list(&row, "bodies")?);
    let mut found: Vec<_> = names.iter().map(String::as_str).zip(bodies.iter().map(String::as_str)).collect();
    found.sort_unstable();
    if found == functions(mode) {
        return Ok("the text of every function");
    }
    Err(Error::new(
        ErrorKind::Refused,
        "the functions of the schema syntha are not those of this build: install them anew",
    ))
}

/// No answer is no.
fn holds(row: &PgRow) -> Result<bool> {
    let holds: Option<bool> = row.try_get(0).map_err(|_| corrupt())?;
    Ok(holds.unwrap_or(false))
}

/// Reads what is there under another tag, which must find nothing.
pub(crate) async fn canary(connections: &Arc<Connections>, life: Incarnation) -> Result<&'static str> {
    let own =
        connections.one(bound(Kind::State, STATE, &syntha_store::DEPLOYMENT_OWNER, life), Sent::Read).await?;
    rows::check(&own)?;
    let mut other = [0; 32];
    for (to, from) in other.iter_mut().zip(Incarnation::random()?.0.to_be_bytes()) {
        *to = from;
    }
    match connections
        .one(bound(Kind::State, STATE, &other, life), Sent::Read)
        .await
        .and_then(|row| rows::check(&row))
    {
        Err(error) if error.kind() == ErrorKind::Gone => Ok("another tag finds nothing"),
        Err(error) => Err(error),
        Ok(()) => Err(Error::new(ErrorKind::Refused, "another tag reads what is not its own: install anew")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn an_older_server_is_refused() {
        for good in [130_022, 140_019, 150_014, 150_018, 160_010, 170_006, 180_000] {
            assert!(check_version(good).is_ok(), "{good}");
        }
        for old in [0, 90_624, 120_022, 130_021, 140_018, 150_013, 160_009, 170_005] {
            assert_eq!(check_version(old).unwrap_err().kind(), ErrorKind::Unsupported, "{old}");
        }
    }
}
