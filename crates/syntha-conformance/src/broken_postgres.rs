//! Broken stores in a PostgreSQL database: in its functions and tables, and in how connections are used.

use syntha_postgres::{Fault, Mode};

use crate::postgres::PostgresFault;

/// The statement that puts a text in the place of another one in a function, wherever it stands.
macro_rules! edit {
    ($function:literal, $from:literal, $to:literal) => {
        concat!(
            "DO $do$ DECLARE v text := pg_get_functiondef('syntha.",
            $function,
            "'::regproc); BEGIN
                 IF position($q$",
            $from,
            "$q$ IN v) = 0 THEN RAISE EXCEPTION 'nothing to break'; END IF;
                 EXECUTE replace(v, $q$",
            $from,
            "$q$, $q$",
            $to,
            "$q$); END $do$;"
        )
    };
}

/// Every broken store in a PostgreSQL database. Each that is in the database is refused by `Store::verify`; here nobody asks that.
#[must_use]
pub fn postgres_faults() -> Vec<PostgresFault> {
    let mut faults: Vec<_> = IN_THE_DATABASE
        .iter()
        .map(|(name, mode, statements)| PostgresFault { name, mode: *mode, statements, connections: None })
        .collect();
    faults.extend([
        // The user is set for the session, and a read goes by what is set.
        PostgresFault {
            name: "postgres-setting-lasts",
            mode: Mode::Rls,
            statements: concat!(
                edit!("state", "encode(p_tag, 'hex'), true)", "encode(p_tag, 'hex'), false)"),
                edit!("open_user", "encode(p_tag, 'hex'), true)", "encode(p_tag, 'hex'), false)"),
                edit!("commit", "encode(p_tag, 'hex'), true)", "encode(p_tag, 'hex'), false)"),
                edit!("read", " || set_config('syntha.user', encode(p_tag, 'hex'), true)", ""),
                edit!("read", "r.tenant = p_tag AND", ""),
                "ALTER TABLE syntha_rows.user_state NO FORCE ROW LEVEL SECURITY;"
            ),
            connections: Some(Fault::ReleasedUnchecked),
        },
    ]);
    faults
}

type InTheDatabase = (&'static str, Mode, &'static str);

const IN_THE_DATABASE: &[InTheDatabase] = &[
        // The user's own filter is gone, and the policies are off: row-level security was the only filter.
        (
            "postgres-tenant-ignored",
            Mode::Rls,
            concat!(
                edit!("read", "r.tenant = p_tag AND", ""),
                "ALTER TABLE syntha_rows.user_record DISABLE ROW LEVEL SECURITY;"
            ),
        ),
        // The scan joins whoever has the life, and reads everybody's records.
        (
            "postgres-scan-of-all",
            Mode::Rls,
            concat!(
                edit!("scan", "r.tenant = p_tag AND", ""),
                "ALTER TABLE syntha_rows.user_record NO FORCE ROW LEVEL SECURITY;"
            ),
        ),
        // One schema for users whose tags begin alike.
        (
            "postgres-name-cut",
            Mode::Schema,
            edit!("place", "RETURN 'u_' ||", "RETURN 'u_' || left(encode(p_tag, 'hex'), 8); RETURN"),
        ),
        ("postgres-stamp-ignored", Mode::Schema, edit!("commit", "WHEN p_epoch <> o_epoch THEN 2", "")),
        (
            "postgres-outcome-lost",
            Mode::Schema,
            edit!("commit", "s.recent || p_batch", "s.recent || substr(p_batch, 1, 15) || '\\x00'::bytea"),
        ),
        ("postgres-life-ignored", Mode::Schema, edit!("state", "AND s.life = p_life AND s.fence = 0", "")),
        (
            "postgres-erase-keeps-row",
            Mode::Rls,
            concat!(
                edit!(
                    "erase_user",
                    "DELETE FROM user_state AS s WHERE s.tenant = p_tag AND current_schema() = v_place;",
                    ""
                ),
                edit!("destroy", "DELETE FROM user_state AS s WHERE s.tenant = p_tag;", "")
            ),
        ),
        (
            "postgres-mark-forgotten",
            Mode::Schema,
            edit!("erase_user", "SET fence = 1, present = 2", "SET fence = 0, present = 0"),
        ),
        (
            "postgres-delete-forgotten",
            Mode::Schema,
            edit!("changes", "d.tenant = p_tag AND d.epoch > p_since", "false"),
        ),
    // A setting that is missing is everybody, and a read forgets to set it.
    (
        "postgres-policy-fails-open",
        Mode::Rls,
        concat!(
            "ALTER POLICY tenant ON syntha_rows.user_record USING (coalesce(current_setting('syntha.user', true), '') = ''
                OR tenant = decode(nullif(current_setting('syntha.user', true), ''), 'hex'));",
            edit!("read", " || set_config('syntha.user', encode(p_tag, 'hex'), true)", ""),
            edit!("read", "r.tenant = p_tag AND", ""),
            "ALTER TABLE syntha_rows.user_state NO FORCE ROW LEVEL SECURITY;"
        ),
    ),
    // A table of that name stands where the path looks first.
    (
        "postgres-public-in-path",
        Mode::Schema,
        concat!(
            "SELECT syntha.make_tables('beside'); ALTER TABLE beside.user_record SET SCHEMA public;
             ALTER TABLE public.user_record OWNER TO syntha_owner; GRANT USAGE ON SCHEMA public TO syntha_owner;",
            edit!("commit", "v_place || ', pg_temp'", "'public, ' || v_place || ', pg_temp'"),
            edit!("commit", "current_schema() = v_place", "true"),
            edit!("read", "v_place || ', pg_temp'", "'public, ' || v_place || ', pg_temp'"),
            edit!("read", "current_schema() = v_place", "true"),
            edit!("read", "r.tenant = p_tag AND", "")
        ),
    ),
    // Two users can't have a record of the same name.
    (
        "postgres-key-without-tenant",
        Mode::Rls,
        "CREATE UNIQUE INDEX oracle ON syntha_rows.user_record (space, name, seq);",
    ),
];
