-- What every deployment has. Types are bytea, bigint and text alone, each table has a primary key, and there is no sequence, trigger or foreign key.
CREATE SCHEMA syntha;

-- One row.
CREATE TABLE syntha.deployment (
    one bigint PRIMARY KEY CHECK (one = 1),
    mode text NOT NULL,
    version bigint NOT NULL,
    key_print bytea NOT NULL
);

-- Who there is. `present`: 1 while there is data, 2 while tables without rows are to be dropped, else 0. `fence`: as in the user's own row; 1 stays
-- after an erase.
CREATE TABLE syntha.member (
    tag bytea PRIMARY KEY CHECK (octet_length(tag) = 32),
    fence bigint NOT NULL,
    present bigint NOT NULL,
    format bigint NOT NULL
);
CREATE INDEX member_to_drop ON syntha.member (tag) WHERE present = 2;

-- Makes the tables of one user (mode `schema`) or of all (mode `rls`). The tenant is first in every key in both, so that a wrong path finds nothing.
CREATE FUNCTION syntha.make_tables(p_place text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('CREATE SCHEMA %I', p_place);
    EXECUTE format('CREATE TABLE %I.user_state (
        tenant bytea PRIMARY KEY CHECK (octet_length(tenant) = 32),
        key_print bytea NOT NULL,
        life bytea NOT NULL,
        epoch bigint NOT NULL,
        chain_seq bigint NOT NULL,
        chain_head bytea NOT NULL,
        contexts bigint NOT NULL,
        agents bigint NOT NULL,
        context_bytes bigint NOT NULL,
        history_bytes bigint NOT NULL,
        time bigint NOT NULL,
        fence bigint NOT NULL,
        note bytea NOT NULL,
        recent bytea NOT NULL,
        buried bigint NOT NULL,
        floor bigint NOT NULL
    ) WITH (fillfactor = 50)', p_place);
    EXECUTE format('CREATE TABLE %I.user_record (
        tenant bytea NOT NULL,
        space bigint NOT NULL,
        name bytea NOT NULL,
        seq bigint NOT NULL,
        version bigint NOT NULL,
        body_version bigint NOT NULL,
        expires bigint,
        head bytea NOT NULL,
        body bytea NOT NULL,
        PRIMARY KEY (tenant, space, name, seq)
    )', p_place);
    EXECUTE format('CREATE INDEX user_record_version ON %I.user_record (tenant, version) WHERE space <> 5', p_place);
    EXECUTE format('CREATE INDEX user_record_expires ON %I.user_record (tenant, expires) WHERE expires IS NOT NULL', p_place);
    EXECUTE format('CREATE TABLE %I.user_deleted (
        tenant bytea NOT NULL,
        n bigint NOT NULL,
        epoch bigint NOT NULL,
        space bigint NOT NULL,
        name bytea NOT NULL,
        seq bigint NOT NULL,
        PRIMARY KEY (tenant, n)
    )', p_place);
END $$;
