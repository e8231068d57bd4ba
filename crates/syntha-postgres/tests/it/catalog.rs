//! What the installation left in the catalog, all of it: who owns it, who may use it, and where it looks for names.

use sqlx::postgres::PgConnection;
use sqlx::{Connection, Row};
use syntha_postgres::{Mode, PostgresStore};
use syntha_store::Store;

use super::{MODES, database, user};

/// One line for each thing, with everything about it that a right hangs on.
const FUNCTIONS: &str = "SELECT format('function %s owner=%s language=%s %s%s path=%s acl=%s',
        p.proname, r.rolname, l.lanname, CASE p.provolatile WHEN 'v' THEN 'volatile' ELSE 'not volatile' END,
        CASE WHEN p.prosecdef THEN ' definer' ELSE '' END, array_to_string(p.proconfig, ','),
        array_to_string(ARRAY(SELECT x::text FROM unnest(p.proacl) AS x ORDER BY 1), ','))
    FROM pg_proc AS p JOIN pg_roles AS r ON r.oid = p.proowner JOIN pg_language AS l ON l.oid = p.prolang
    JOIN pg_namespace AS n ON n.oid = p.pronamespace WHERE n.nspname = 'syntha' ORDER BY 1";
/// A user's schema is named `u_*`.
const TABLES: &str = "SELECT format('%s %s.%s owner=%s rls=%s acl=%s', CASE c.relkind WHEN 'r' THEN 'table' WHEN 'i' THEN 'index' ELSE c.relkind::text END,
        regexp_replace(n.nspname, '^u_.*', 'u_*'), c.relname, r.rolname,
        CASE WHEN c.relforcerowsecurity AND c.relrowsecurity THEN 'forced' WHEN c.relrowsecurity THEN 'enabled' ELSE 'off' END,
        coalesce(array_to_string(c.relacl, ','), 'none'))
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace JOIN pg_roles AS r ON r.oid = c.relowner
    WHERE n.nspname = 'syntha' OR n.nspname = 'syntha_rows' OR n.nspname LIKE 'u\\_%' ORDER BY 1";
const SCHEMAS: &str = "SELECT format('schema %s owner=%s acl=%s', regexp_replace(n.nspname, '^u_.*', 'u_*'), r.rolname,
        coalesce(array_to_string(n.nspacl, ','), 'none'))
    FROM pg_namespace AS n JOIN pg_roles AS r ON r.oid = n.nspowner
    WHERE n.nspname = 'public' OR n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema' ORDER BY 1";
const POLICIES: &str = "SELECT format('policy %s.%s %s %s to=%s for=%s using=%s check=%s', p.schemaname, p.tablename, p.policyname, lower(p.permissive),
        array_to_string(p.roles, ','), p.cmd, p.qual, p.with_check) FROM pg_policies AS p ORDER BY 1";
/// Everything else that could act, or be written to.
const OTHERS: &str = "SELECT 'trigger ' || t.tgname FROM pg_trigger AS t WHERE NOT t.tgisinternal
    UNION ALL SELECT 'rule ' || r.rulename FROM pg_rules AS r WHERE r.schemaname NOT IN ('pg_catalog', 'information_schema')
    UNION ALL SELECT 'sequence ' || s.sequencename FROM pg_sequences AS s
    UNION ALL SELECT 'event trigger ' || e.evtname FROM pg_event_trigger AS e
    UNION ALL SELECT 'foreign key ' || c.conname FROM pg_constraint AS c WHERE c.contype = 'f'
    UNION ALL SELECT 'default rights ' || d.oid FROM pg_default_acl AS d ORDER BY 1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_catalog_holds_what_is_listed() {
    let mut found = String::new();
    for mode in MODES {
        let database = database(mode).await;
        let store = PostgresStore::open(database.config()).await.unwrap();
        user(&store, "alice").await;
        found.push_str(&format!("mode {}\n", mode.name()));
        let mut connection = PgConnection::connect(&database.url("postgres")).await.unwrap();
        for text in [SCHEMAS, TABLES, POLICIES, FUNCTIONS, OTHERS] {
            for row in sqlx::query(text).fetch_all(&mut connection).await.unwrap() {
                let line: String = row.get(0);
                check(mode, &line);
                found.push_str(&line);
                found.push('\n');
            }
        }
        connection.close().await.unwrap();
        store.close().await.unwrap();
        database.remove().await.unwrap();
    }
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/catalog.txt");
    if std::env::var_os("SYNTHA_BLESS").is_some() {
        std::fs::write(&path, &found).unwrap();
    }
    let listed = std::fs::read_to_string(&path).unwrap();
    assert!(
        listed == found,
        "the catalog differs from tests/it/catalog.txt, SYNTHA_BLESS=1 writes it anew:\n{found}"
    );
}

/// What holds of every line, whatever the list says.
fn check(mode: Mode, line: &str) {
    let is = |prefix: &str| line.starts_with(prefix);
    if is("function ") {
        assert!(line.contains("owner=syntha_owner language=plpgsql volatile"), "{line}");
        assert!(line.contains("path=search_path=pg_catalog, pg_temp "), "{line}");
        // Who may call it: the owner, and the application exactly what is for it.
        let acl = line.rsplit_once("acl=").unwrap().1;
        assert!(
            !acl.is_empty() && !acl.split(',').any(|right| right.starts_with('=')),
            "everybody may call it: {line}"
        );
        assert_eq!(acl.contains("syntha_app=X/syntha_owner"), line.contains(" definer "), "{line}");
    } else if is("table ") || is("index ") {
        assert!(line.contains("owner=syntha_owner") && !line.contains("syntha_app"), "{line}");
        let forced = is("table syntha_rows.");
        assert_eq!(line.contains("rls=forced"), forced, "{line}");
    } else if is("schema ") {
        assert!(!line.contains("=UC/") || line.contains("syntha_owner=UC/") || is("schema public"), "{line}");
    } else {
        assert!(is("policy syntha_rows.") && mode == Mode::Rls, "nothing else belongs here: {line}");
    }
}
