-- What the application role may call. Each function is one operation: it says first whose tables it works on, for this transaction alone, and every
-- statement names the tenant as well. Rules (docs/decisions/0030-postgres-functions.md): PL/pgSQL alone, no cursor, no set is returned, no `SELECT *`,
-- no handler of errors, nothing that sets the scope inside a query. Arguments and results of a function stay as they are while a process of the
-- version before may call it. `o_status`: see `Status` in `rows.rs`.

-- Makes the tables of one user (mode `schema`) or of all (mode `rls`). The tenant is first in every key in both, so that a wrong path finds nothing.
CREATE OR REPLACE FUNCTION syntha.make_tables(p_place text) RETURNS void
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
    EXECUTE format('CREATE INDEX user_deleted_epoch ON %I.user_deleted (tenant, epoch)', p_place);
END $$;

-- Makes a user's tables where the mode has them; the RLS mode has them already.
CREATE OR REPLACE FUNCTION syntha.make(p_tag bytea) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (SELECT d.mode FROM syntha.deployment AS d) = 'schema' THEN
        PERFORM syntha.make_tables(syntha.place(p_tag));
    END IF;
END $$;

-- Removes what a user has.
CREATE OR REPLACE FUNCTION syntha.destroy(p_tag bytea) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_place text := syntha.place(p_tag);
    v_set text;
BEGIN
    IF (SELECT d.mode FROM syntha.deployment AS d) = 'schema' THEN
        -- Whoever waits for this lock holds up everybody who comes after.
        PERFORM set_config('lock_timeout', '1s', true);
        EXECUTE format('DROP SCHEMA IF EXISTS %I CASCADE', v_place);
    ELSE
        v_set := set_config('search_path', v_place || ', pg_temp', true) || set_config('syntha.user', encode(p_tag, 'hex'), true);
        DELETE FROM user_record AS r WHERE r.tenant = p_tag;
        DELETE FROM user_deleted AS d WHERE d.tenant = p_tag;
        DELETE FROM user_state AS s WHERE s.tenant = p_tag;
        v_set := set_config('syntha.user', '', true);
    END IF;
END $$;

CREATE OR REPLACE FUNCTION syntha.hello(OUT o_mode text, OUT o_version bigint, OUT o_print bytea, OUT o_server bigint)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT d.mode, d.version, d.key_print, current_setting('server_version_num')::bigint
        INTO STRICT o_mode, o_version, o_print, o_server FROM syntha.deployment AS d;
END $$;

-- `p_kind`: 1 put, 2 put of a head, 3 rewrite, 4 delete, 5 delete of a name, 6 clear, 7 expected version. `p_number`: when it expires (1, 2), or the
-- version that is expected (3, 7); null for none. `p_usage`: four numbers, or null.
CREATE OR REPLACE FUNCTION syntha.commit(
    p_tag bytea, p_life bytea, p_epoch bigint, p_chain bigint, p_raise bigint, p_batch bytea,
    p_chain_seq bigint, p_chain_head bytea, p_usage bigint[], p_time bigint, p_note bytea,
    p_kind bigint[], p_space bigint[], p_name bytea[], p_seq bigint[], p_number bigint[], p_head bytea[], p_body bytea[],
    OUT o_status bigint, OUT o_epoch bigint, OUT o_chain_seq bigint, OUT o_chain_head bytea)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_place text := syntha.place(p_tag);
    v_set text;
    v_life bytea;
    v_fence bigint;
    v_buried bigint;
    v_before bigint;
    v_count bigint;
    v_floor bigint;
    v_plain boolean;
    v_recent bytea;
BEGIN
    v_plain := 1 = ALL (p_kind);
    o_status := 0;
    -- The row is the lock of all that writes to this user. An import may hold it for long.
    v_set := set_config('lock_timeout', '10s', true) || set_config('search_path', v_place || ', pg_temp', true)
        || set_config('syntha.user', encode(p_tag, 'hex'), true);
    -- What only puts is one statement: it waits for the lock, looks at the row again, and writes nothing if that is not as expected. Then, and for
    -- everything else, the steps below say why or do it. With the path of another user, expressions are planned anew as well: so there are few here.
    IF v_plain THEN
        WITH moved AS (
            UPDATE user_state AS s SET
                    epoch = s.epoch + p_raise,
                    chain_seq = coalesce(p_chain_seq, s.chain_seq),
                    chain_head = coalesce(p_chain_head, s.chain_head),
                    contexts = coalesce(p_usage[1], s.contexts),
                    agents = coalesce(p_usage[2], s.agents),
                    context_bytes = coalesce(p_usage[3], s.context_bytes),
                    history_bytes = coalesce(p_usage[4], s.history_bytes),
                    time = greatest(s.time, p_time),
                    note = coalesce(p_note, s.note),
                    recent = substr(s.recent || p_batch || int8send(s.epoch + p_raise), greatest(1, octet_length(s.recent) - 743))
                WHERE s.tenant = p_tag AND s.life = p_life AND s.fence = 0 AND s.epoch = coalesce(p_epoch, s.epoch)
                    AND s.chain_seq = coalesce(p_chain, s.chain_seq) AND position(p_batch IN s.recent) = 0 AND current_schema() = v_place
                RETURNING s.epoch, s.chain_seq, s.chain_head),
        wrote AS (
            INSERT INTO user_record AS r (tenant, space, name, seq, version, body_version, expires, head, body)
                SELECT p_tag, o.space, o.name, o.seq, m.epoch, m.epoch, o.number, o.head, o.body
                FROM moved AS m, unnest(p_space, p_name, p_seq, p_number, p_head, p_body) AS o (space, name, seq, number, head, body)
                ON CONFLICT (tenant, space, name, seq) DO UPDATE SET
                    version = excluded.version, body_version = excluded.body_version, expires = excluded.expires,
                    head = excluded.head, body = excluded.body)
        SELECT m.epoch, m.chain_seq, m.chain_head INTO o_epoch, o_chain_seq, o_chain_head FROM moved AS m;
        IF FOUND THEN
            v_set := set_config('syntha.user', '', true);
            RETURN;
        END IF;
    END IF;
    SELECT s.life, s.fence, s.epoch, s.chain_seq, s.chain_head, s.buried, s.recent
        INTO v_life, v_fence, o_epoch, o_chain_seq, o_chain_head, v_buried, v_recent
        FROM user_state AS s WHERE s.tenant = p_tag AND current_schema() = v_place FOR UPDATE;
    o_status := CASE
        WHEN NOT FOUND OR v_life <> p_life OR v_fence <> 0 THEN 1
        WHEN p_epoch <> o_epoch THEN 2
        WHEN p_chain <> o_chain_seq THEN 3
        -- It was committed, or its sender was told that it was not.
        WHEN position(p_batch IN v_recent) > 0 THEN 2
        ELSE 0 END;
    IF o_status = 0 AND (7 = ANY (p_kind) OR 3 = ANY (p_kind)) THEN
        PERFORM 1 FROM unnest(p_kind, p_space, p_name, p_seq, p_number) AS o (kind, space, name, seq, number)
            LEFT JOIN user_record AS r
                ON r.tenant = p_tag AND r.space = o.space AND r.name = o.name AND r.seq = o.seq
            WHERE (o.kind = 7 OR o.kind = 3) AND coalesce(r.version, -1) <> coalesce(o.number, -1);
        IF FOUND THEN
            o_status := 4;
        END IF;
    END IF;
    IF o_status = 0 AND 2 = ANY (p_kind) THEN
        PERFORM 1 FROM unnest(p_kind, p_space, p_name, p_seq) AS o (kind, space, name, seq)
            LEFT JOIN user_record AS r
                ON r.tenant = p_tag AND r.space = o.space AND r.name = o.name AND r.seq = o.seq
            WHERE o.kind = 2 AND r.tenant IS NULL;
        IF FOUND THEN
            o_status := 5;
        END IF;
    END IF;
    -- Nothing is written before this place, and nothing is refused after it.
    IF o_status <> 0 THEN
        v_set := set_config('syntha.user', '', true);
        RETURN;
    END IF;
    o_epoch := o_epoch + p_raise;
    v_before := v_buried;
    IF 6 = ANY (p_kind) THEN
        WITH gone AS (
            DELETE FROM user_record AS r
                USING (SELECT DISTINCT o.space FROM unnest(p_kind, p_space) AS o (kind, space) WHERE o.kind = 6) AS o
                WHERE r.tenant = p_tag AND r.space = o.space RETURNING r.space, r.name, r.seq)
        INSERT INTO user_deleted (tenant, n, epoch, space, name, seq)
            SELECT p_tag, v_buried + row_number() OVER (), o_epoch, g.space, g.name, g.seq FROM gone AS g WHERE g.space <> 5;
        GET DIAGNOSTICS v_count = ROW_COUNT;
        v_buried := v_buried + v_count;
    END IF;
    IF 5 = ANY (p_kind) THEN
        WITH gone AS (
            DELETE FROM user_record AS r
                USING (SELECT DISTINCT o.space, o.name FROM unnest(p_kind, p_space, p_name) AS o (kind, space, name) WHERE o.kind = 5) AS o
                WHERE r.tenant = p_tag AND r.space = o.space AND r.name = o.name RETURNING r.space, r.name, r.seq)
        INSERT INTO user_deleted (tenant, n, epoch, space, name, seq)
            SELECT p_tag, v_buried + row_number() OVER (), o_epoch, g.space, g.name, g.seq FROM gone AS g WHERE g.space <> 5;
        GET DIAGNOSTICS v_count = ROW_COUNT;
        v_buried := v_buried + v_count;
    END IF;
    IF 4 = ANY (p_kind) THEN
        WITH gone AS (
            DELETE FROM user_record AS r
                USING unnest(p_kind, p_space, p_name, p_seq) AS o (kind, space, name, seq)
                WHERE o.kind = 4 AND r.tenant = p_tag AND r.space = o.space AND r.name = o.name AND r.seq = o.seq
                RETURNING r.space, r.name, r.seq)
        INSERT INTO user_deleted (tenant, n, epoch, space, name, seq)
            SELECT p_tag, v_buried + row_number() OVER (), o_epoch, g.space, g.name, g.seq FROM gone AS g WHERE g.space <> 5;
        GET DIAGNOSTICS v_count = ROW_COUNT;
        v_buried := v_buried + v_count;
    END IF;
    IF 1 = ANY (p_kind) THEN
        INSERT INTO user_record AS r (tenant, space, name, seq, version, body_version, expires, head, body)
            SELECT p_tag, o.space, o.name, o.seq, o_epoch, o_epoch, o.number, o.head, o.body
            FROM unnest(p_kind, p_space, p_name, p_seq, p_number, p_head, p_body) AS o (kind, space, name, seq, number, head, body)
            WHERE o.kind = 1
            ON CONFLICT (tenant, space, name, seq) DO UPDATE SET
                version = excluded.version, body_version = excluded.body_version, expires = excluded.expires,
                head = excluded.head, body = excluded.body;
    END IF;
    IF 2 = ANY (p_kind) THEN
        UPDATE user_record AS r SET head = o.head, expires = o.number, version = o_epoch
            FROM unnest(p_kind, p_space, p_name, p_seq, p_number, p_head) AS o (kind, space, name, seq, number, head)
            WHERE o.kind = 2 AND r.tenant = p_tag AND r.space = o.space AND r.name = o.name AND r.seq = o.seq;
    END IF;
    IF 3 = ANY (p_kind) THEN
        UPDATE user_record AS r SET head = o.head, body = o.body
            FROM unnest(p_kind, p_space, p_name, p_seq, p_head, p_body) AS o (kind, space, name, seq, head, body)
            WHERE o.kind = 3 AND r.tenant = p_tag AND r.space = o.space AND r.name = o.name AND r.seq = o.seq;
    END IF;
    IF v_buried > v_before AND v_buried > 4096 THEN
        WITH cut AS (DELETE FROM user_deleted AS d WHERE d.tenant = p_tag AND d.n <= v_buried - 4096 RETURNING d.epoch)
        SELECT max(c.epoch) INTO v_floor FROM cut AS c;
    END IF;
    UPDATE user_state AS s SET
            epoch = o_epoch,
            chain_seq = coalesce(p_chain_seq, s.chain_seq),
            chain_head = coalesce(p_chain_head, s.chain_head),
            contexts = coalesce(p_usage[1], s.contexts),
            agents = coalesce(p_usage[2], s.agents),
            context_bytes = coalesce(p_usage[3], s.context_bytes),
            history_bytes = coalesce(p_usage[4], s.history_bytes),
            time = greatest(s.time, p_time),
            note = coalesce(p_note, s.note),
            recent = substr(s.recent || p_batch || int8send(o_epoch), greatest(1, octet_length(s.recent) - 743)),
            buried = v_buried,
            floor = greatest(s.floor, coalesce(v_floor, 0))
        WHERE s.tenant = p_tag AND current_schema() = v_place
        RETURNING s.chain_seq, s.chain_head INTO STRICT o_chain_seq, o_chain_head;
    v_set := set_config('syntha.user', '', true);
END $$;

-- `p_mode`: 0 for a new user, 1 also for one that was erased.
CREATE OR REPLACE FUNCTION syntha.create_user(
    p_tag bytea, p_life bytea, p_print bytea, p_mode bigint, p_batch bytea,
    p_chain_seq bigint, p_chain_head bytea, p_usage bigint[], p_time bigint, p_note bytea,
    p_kind bigint[], p_space bigint[], p_name bytea[], p_seq bigint[], p_number bigint[], p_head bytea[], p_body bytea[],
    OUT o_status bigint, OUT o_epoch bigint, OUT o_chain_seq bigint, OUT o_chain_head bytea)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_fence bigint;
    v_present bigint;
BEGIN
    INSERT INTO syntha.member (tag, fence, present, format) VALUES (p_tag, 0, 0, 2) ON CONFLICT (tag) DO NOTHING;
    SELECT m.fence, m.present INTO STRICT v_fence, v_present FROM syntha.member AS m WHERE m.tag = p_tag FOR UPDATE;
    o_status := CASE
        WHEN v_present = 1 AND v_fence <> 1 THEN 8
        WHEN v_fence = 1 AND p_mode = 0 THEN 7
        ELSE 0 END;
    IF o_status <> 0 THEN
        RETURN;
    END IF;
    PERFORM syntha.begin_life(p_tag, p_life, p_print);
    SELECT c.o_status, c.o_epoch, c.o_chain_seq, c.o_chain_head INTO o_status, o_epoch, o_chain_seq, o_chain_head
        FROM syntha.commit(p_tag, p_life, NULL, NULL, 1, p_batch, p_chain_seq, p_chain_head, p_usage, p_time, p_note,
            p_kind, p_space, p_name, p_seq, p_number, p_head, p_body) AS c;
    IF o_status <> 0 THEN
        -- Nothing of the user stays.
        RAISE EXCEPTION 'the first batch was refused' USING ERRCODE = 'SY00' || o_status;
    END IF;
END $$;

-- The row of a life that has no commit yet. The caller holds the row of `member`.
CREATE OR REPLACE FUNCTION syntha.begin_life(p_tag bytea, p_life bytea, p_print bytea) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_place text := syntha.place(p_tag);
    v_set text;
BEGIN
    PERFORM syntha.destroy(p_tag);
    PERFORM syntha.make(p_tag);
    UPDATE syntha.member AS m SET fence = 0, present = 1, format = 2 WHERE m.tag = p_tag;
    v_set := set_config('search_path', v_place || ', pg_temp', true) || set_config('syntha.user', encode(p_tag, 'hex'), true);
    INSERT INTO user_state (tenant, key_print, life, epoch, chain_seq, chain_head, contexts, agents, context_bytes, history_bytes,
            time, fence, note, recent, buried, floor)
        SELECT p_tag, p_print, p_life, 0, 0, decode(repeat('00', 32), 'hex'), 0, 0, 0, 0, 0, 0, '', '', 0, 0
        WHERE current_schema() = v_place;
    v_set := set_config('syntha.user', '', true);
END $$;

CREATE OR REPLACE FUNCTION syntha.open_user(p_tag bytea, OUT o_status bigint, OUT o_life bytea, OUT o_print bytea)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_place text := syntha.place(p_tag);
    v_set text;
    v_fence bigint;
    v_present bigint;
    v_format bigint;
BEGIN
    SELECT m.fence, m.present, m.format INTO v_fence, v_present, v_format FROM syntha.member AS m WHERE m.tag = p_tag;
    -- Tables of this version and of the one before are served alike.
    o_status := CASE
        WHEN NOT FOUND OR (v_present <> 1 AND v_fence <> 1) THEN 6
        WHEN v_fence = 1 THEN 7
        WHEN v_fence <> 0 THEN 1
        WHEN v_format < 1 OR v_format > 2 THEN 12
        ELSE 0 END;
    IF o_status <> 0 THEN
        RETURN;
    END IF;
    v_set := set_config('search_path', v_place || ', pg_temp', true) || set_config('syntha.user', encode(p_tag, 'hex'), true);
    SELECT s.life, s.key_print INTO o_life, o_print
        FROM user_state AS s WHERE s.tenant = p_tag AND current_schema() = v_place;
    IF NOT FOUND THEN
        o_status := 10;
    END IF;
    v_set := set_config('syntha.user', '', true);
END $$;

-- The deployment's own space, whose tag is of zeros. It is made at its first use.
CREATE OR REPLACE FUNCTION syntha.open_deployment(p_life bytea, p_print bytea, OUT o_status bigint, OUT o_life bytea, OUT o_print bytea)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_tag CONSTANT bytea := decode(repeat('00', 32), 'hex');
    v_present bigint;
BEGIN
    SELECT m.present INTO v_present FROM syntha.member AS m WHERE m.tag = v_tag;
    IF v_present IS DISTINCT FROM 1 THEN
        INSERT INTO syntha.member (tag, fence, present, format) VALUES (v_tag, 0, 0, 2) ON CONFLICT (tag) DO NOTHING;
        SELECT m.present INTO STRICT v_present FROM syntha.member AS m WHERE m.tag = v_tag FOR UPDATE;
        IF v_present = 0 THEN
            PERFORM syntha.begin_life(v_tag, p_life, p_print);
        END IF;
    END IF;
    SELECT u.o_status, u.o_life, u.o_print INTO o_status, o_life, o_print FROM syntha.open_user(v_tag) AS u;
END $$;

CREATE OR REPLACE FUNCTION syntha.fence_user(p_tag bytea, p_life bytea, p_epoch bigint, p_fence bigint,
    OUT o_status bigint, OUT o_life bytea, OUT o_epoch bigint)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_place text := syntha.place(p_tag);
    v_set text;
    v_present bigint;
BEGIN
    PERFORM set_config('lock_timeout', '10s', true);
    SELECT m.present INTO v_present FROM syntha.member AS m WHERE m.tag = p_tag FOR UPDATE;
    IF NOT FOUND OR v_present <> 1 THEN
        o_status := 6;
        RETURN;
    END IF;
    v_set := set_config('search_path', v_place || ', pg_temp', true) || set_config('syntha.user', encode(p_tag, 'hex'), true);
    SELECT s.life, s.epoch INTO STRICT o_life, o_epoch
        FROM user_state AS s WHERE s.tenant = p_tag AND current_schema() = v_place FOR UPDATE;
    IF p_life <> o_life OR p_epoch <> o_epoch THEN
        o_status := 2;
    ELSE
        o_status := 0;
        UPDATE user_state AS s SET fence = p_fence WHERE s.tenant = p_tag AND current_schema() = v_place;
        UPDATE syntha.member AS m SET fence = p_fence WHERE m.tag = p_tag;
    END IF;
    v_set := set_config('syntha.user', '', true);
END $$;

-- Takes every row and leaves the mark. Tables go afterwards, in `drop_erased`: an archive that is read at the moment holds them, but not the rows.
CREATE OR REPLACE FUNCTION syntha.erase_user(p_tag bytea, OUT o_status bigint, OUT o_removed bigint)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_place text := syntha.place(p_tag);
    v_set text;
    v_fence bigint;
    v_present bigint;
BEGIN
    PERFORM set_config('lock_timeout', '10s', true);
    o_removed := 0;
    SELECT m.fence, m.present INTO v_fence, v_present FROM syntha.member AS m WHERE m.tag = p_tag FOR UPDATE;
    IF NOT FOUND OR (v_present <> 1 AND v_fence <> 1) THEN
        o_status := 6;
        RETURN;
    END IF;
    o_status := 0;
    IF v_present <> 1 THEN
        RETURN;
    END IF;
    o_removed := 1;
    v_set := set_config('search_path', v_place || ', pg_temp', true) || set_config('syntha.user', encode(p_tag, 'hex'), true);
    DELETE FROM user_state AS s WHERE s.tenant = p_tag AND current_schema() = v_place;
    DELETE FROM user_record AS r WHERE r.tenant = p_tag AND current_schema() = v_place;
    DELETE FROM user_deleted AS d WHERE d.tenant = p_tag AND current_schema() = v_place;
    UPDATE syntha.member AS m SET fence = 1, present = 2 WHERE m.tag = p_tag;
    v_set := set_config('syntha.user', '', true);
END $$;

-- Drops the tables of one user who was erased. `o_dropped`: 0 if there is none.
CREATE OR REPLACE FUNCTION syntha.drop_erased(OUT o_dropped bigint)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_tag bytea;
BEGIN
    o_dropped := 0;
    SELECT m.tag INTO v_tag FROM syntha.member AS m WHERE m.present = 2 LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF FOUND THEN
        PERFORM syntha.destroy(v_tag);
        UPDATE syntha.member AS m SET present = 0 WHERE m.tag = v_tag;
        o_dropped := 1;
    END IF;
END $$;

-- Brings the tables of one user to this version, for the owner. `o_done`: 0 if they are, or if there is no such user. The row of `member` keeps out
-- who makes, erases or migrates the same user; who waits longer for the tables fails, and is tried again later.
CREATE OR REPLACE FUNCTION syntha.migrate_user(p_tag bytea, OUT o_done bigint)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_place text := syntha.place(p_tag);
    v_format bigint;
BEGIN
    o_done := 0;
    PERFORM set_config('lock_timeout', '2s', true);
    SELECT m.format INTO v_format FROM syntha.member AS m WHERE m.tag = p_tag AND m.present = 1 FOR UPDATE;
    IF NOT FOUND OR v_format >= 2 THEN
        RETURN;
    END IF;
    -- In the mode `rls` the installation has done it for all.
    IF (SELECT d.mode FROM syntha.deployment AS d) = 'schema' THEN
        EXECUTE format('CREATE INDEX IF NOT EXISTS user_deleted_epoch ON %I.user_deleted (tenant, epoch)', v_place);
    END IF;
    UPDATE syntha.member AS m SET format = 2 WHERE m.tag = p_tag;
    o_done := 1;
END $$;

CREATE OR REPLACE FUNCTION syntha.list_users(p_after bytea, p_limit bigint, OUT o_tags bytea[])
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT array_agg(t.tag ORDER BY t.tag) INTO o_tags FROM (
        SELECT m.tag FROM syntha.member AS m
            WHERE m.tag > p_after AND m.present = 1 AND m.fence <> 1 AND m.fence <> 2 AND m.tag <> decode(repeat('00', 32), 'hex')
            ORDER BY m.tag LIMIT p_limit) AS t;
END $$;

CREATE OR REPLACE FUNCTION syntha.state(p_tag bytea, p_life bytea,
    OUT o_status bigint, OUT o_epoch bigint, OUT o_chain_seq bigint, OUT o_chain_head bytea, OUT o_usage bigint[],
    OUT o_expires bigint, OUT o_time bigint, OUT o_note bytea, OUT o_recent bytea)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_place text := syntha.place(p_tag);
    v_set text;
BEGIN
    v_set := set_config('search_path', v_place || ', pg_temp', true) || set_config('syntha.user', encode(p_tag, 'hex'), true);
    SELECT 0, s.epoch, s.chain_seq, s.chain_head, ARRAY[s.contexts, s.agents, s.context_bytes, s.history_bytes],
            (SELECT min(r.expires) FROM user_record AS r WHERE r.tenant = p_tag AND r.expires IS NOT NULL),
            s.time, s.note, s.recent
        INTO o_status, o_epoch, o_chain_seq, o_chain_head, o_usage, o_expires, o_time, o_note, o_recent
        FROM user_state AS s
        WHERE s.tenant = p_tag AND s.life = p_life AND s.fence = 0 AND current_schema() = v_place;
    IF NOT FOUND THEN
        o_status := 1;
    END IF;
    v_set := set_config('syntha.user', '', true);
END $$;

-- What became of a batch, for a sender who lost the answer. It may still be under way: so this waits for the row, and a batch that was not committed is
-- marked, with the epoch -1, and can't be any more. `o_recent` is from before the mark.
CREATE OR REPLACE FUNCTION syntha.settle(p_tag bytea, p_life bytea, p_batch bytea, OUT o_status bigint, OUT o_recent bytea)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_place text := syntha.place(p_tag);
    v_set text;
BEGIN
    v_set := set_config('search_path', v_place || ', pg_temp', true) || set_config('syntha.user', encode(p_tag, 'hex'), true)
        || set_config('lock_timeout', '10s', true);
    SELECT 0, s.recent INTO o_status, o_recent
        FROM user_state AS s
        WHERE s.tenant = p_tag AND s.life = p_life AND s.fence = 0 AND current_schema() = v_place FOR UPDATE;
    IF NOT FOUND THEN
        o_status := 1;
    ELSIF position(p_batch IN o_recent) = 0 THEN
        UPDATE user_state AS s
            SET recent = substr(s.recent || p_batch || int8send(-1), greatest(1, octet_length(s.recent) - 743))
            WHERE s.tenant = p_tag AND current_schema() = v_place;
    END IF;
    v_set := set_config('syntha.user', '', true);
END $$;

-- One statement reads the row and the records, so they are of one commit.
CREATE OR REPLACE FUNCTION syntha.read(p_tag bytea, p_life bytea, p_space bigint, p_name bytea[], p_seq bigint[],
    OUT o_status bigint, OUT o_epoch bigint, OUT o_place bigint[], OUT o_version bigint[], OUT o_body_version bigint[],
    OUT o_expires bigint[], OUT o_head bytea[], OUT o_body bytea[])
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_place text := syntha.place(p_tag);
    v_set text;
BEGIN
    v_set := set_config('search_path', v_place || ', pg_temp', true) || set_config('syntha.user', encode(p_tag, 'hex'), true);
    SELECT 0, s.epoch, f.place, f.version, f.body_version, f.expires, f.head, f.body
        INTO o_status, o_epoch, o_place, o_version, o_body_version, o_expires, o_head, o_body
        FROM user_state AS s
        LEFT JOIN LATERAL (
            SELECT array_agg(o.place) AS place, array_agg(r.version) AS version, array_agg(r.body_version) AS body_version,
                    array_agg(r.expires) AS expires, array_agg(r.head) AS head, array_agg(r.body) AS body
                FROM unnest(p_name, p_seq) WITH ORDINALITY AS o (name, seq, place)
                JOIN user_record AS r ON r.tenant = p_tag AND r.space = p_space AND r.name = o.name AND r.seq = o.seq) AS f ON true
        WHERE s.tenant = p_tag AND s.life = p_life AND s.fence = 0 AND current_schema() = v_place;
    IF NOT FOUND THEN
        o_status := 1;
    END IF;
    v_set := set_config('syntha.user', '', true);
END $$;

-- A page: at most `p_limit` records, and no more after those of `p_bytes` bytes. `p_name` null: every name.
CREATE OR REPLACE FUNCTION syntha.scan(p_tag bytea, p_life bytea, p_space bigint, p_name bytea, p_from_name bytea, p_from_seq bigint,
    p_reverse bigint, p_bodies bigint, p_limit bigint, p_bytes bigint,
    OUT o_status bigint, OUT o_epoch bigint, OUT o_found bigint, OUT o_name bytea[], OUT o_seq bigint[], OUT o_version bigint[],
    OUT o_body_version bigint[], OUT o_expires bigint[], OUT o_head bytea[], OUT o_body bytea[])
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_place text := syntha.place(p_tag);
    v_set text;
BEGIN
    v_set := set_config('search_path', v_place || ', pg_temp', true) || set_config('syntha.user', encode(p_tag, 'hex'), true);
    -- The inner query is in order, and so are the arrays made of it; who reads them checks that.
    IF p_name IS NULL AND p_reverse = 0 THEN
        SELECT 0, s.epoch, f.found, f.name, f.seq, f.version, f.body_version, f.expires, f.head, f.body
            INTO o_status, o_epoch, o_found, o_name, o_seq, o_version, o_body_version, o_expires, o_head, o_body
            FROM user_state AS s
            LEFT JOIN LATERAL (SELECT count(*) AS found, array_agg(r.name) FILTER (WHERE r.n <= p_limit AND r.before < p_bytes) AS name, array_agg(r.seq) FILTER (WHERE r.n <= p_limit AND r.before < p_bytes) AS seq, array_agg(r.version) FILTER (WHERE r.n <= p_limit AND r.before < p_bytes) AS version, array_agg(r.body_version) FILTER (WHERE r.n <= p_limit AND r.before < p_bytes) AS body_version, array_agg(r.expires) FILTER (WHERE r.n <= p_limit AND r.before < p_bytes) AS expires, array_agg(r.head) FILTER (WHERE r.n <= p_limit AND r.before < p_bytes) AS head, array_agg(r.body) FILTER (WHERE r.n <= p_limit AND r.before < p_bytes) AS body FROM (SELECT r.name, r.seq, r.version, r.body_version, r.expires, r.head, r.body, row_number() OVER w AS n, sum(r.size) OVER w - r.size AS before FROM (
                SELECT r.name, r.seq, r.version, r.body_version, r.expires, r.head, CASE WHEN p_bodies = 1 THEN r.body END AS body, (octet_length(r.head) + CASE WHEN p_bodies = 1 THEN octet_length(r.body) ELSE 0 END)::bigint AS size FROM user_record AS r
                    WHERE r.tenant = p_tag AND r.space = p_space AND (r.name, r.seq) > (p_from_name, p_from_seq)
                    ORDER BY r.name, r.seq LIMIT p_limit + 1) AS r WINDOW w AS (ORDER BY r.name, r.seq)) AS r) AS f ON true
            WHERE s.tenant = p_tag AND s.life = p_life AND s.fence = 0 AND current_schema() = v_place;
    ELSIF p_name IS NULL THEN
        SELECT 0, s.epoch, f.found, f.name, f.seq, f.version, f.body_version, f.expires, f.head, f.body
            INTO o_status, o_epoch, o_found, o_name, o_seq, o_version, o_body_version, o_expires, o_head, o_body
            FROM user_state AS s
            LEFT JOIN LATERAL (SELECT count(*) AS found, array_agg(r.name) FILTER (WHERE r.n <= p_limit AND r.before < p_bytes) AS name, array_agg(r.seq) FILTER (WHERE r.n <= p_limit AND r.before < p_bytes) AS seq, array_agg(r.version) FILTER (WHERE r.n <= p_limit AND r.before < p_bytes) AS version, array_agg(r.body_version) FILTER (WHERE r.n <= p_limit AND r.before < p_bytes) AS body_version, array_agg(r.expires) FILTER (WHERE r.n <= p_limit AND r.before < p_bytes) AS expires, array_agg(r.head) FILTER (WHERE r.n <= p_limit AND r.before < p_bytes) AS head, array_agg(r.body) FILTER (WHERE r.n <= p_limit AND r.before < p_bytes) AS body FROM (SELECT r.name, r.seq, r.version, r.body_version, r.expires, r.head, r.body, row_number() OVER w AS n, sum(r.size) OVER w - r.size AS before FROM (
                SELECT r.name, r.seq, r.version, r.body_version, r.expires, r.head, CASE WHEN p_bodies = 1 THEN r.body END AS body, (octet_length(r.head) + CASE WHEN p_bodies = 1 THEN octet_length(r.body) ELSE 0 END)::bigint AS size FROM user_record AS r
                    WHERE r.tenant = p_tag AND r.space = p_space AND (p_from_name IS NULL OR (r.name, r.seq) < (p_from_name, p_from_seq))
                    ORDER BY r.name DESC, r.seq DESC LIMIT p_limit + 1) AS r WINDOW w AS (ORDER BY r.name DESC, r.seq DESC)) AS r) AS f ON true
            WHERE s.tenant = p_tag AND s.life = p_life AND s.fence = 0 AND current_schema() = v_place;
    ELSIF p_reverse = 0 THEN
        SELECT 0, s.epoch, f.found, f.name, f.seq, f.version, f.body_version, f.expires, f.head, f.body
            INTO o_status, o_epoch, o_found, o_name, o_seq, o_version, o_body_version, o_expires, o_head, o_body
            FROM user_state AS s
            LEFT JOIN LATERAL (SELECT count(*) AS found, array_agg(r.name) FILTER (WHERE r.n <= p_limit AND r.before < p_bytes) AS name, array_agg(r.seq) FILTER (WHERE r.n <= p_limit AND r.before < p_bytes) AS seq, array_agg(r.version) FILTER (WHERE r.n <= p_limit AND r.before < p_bytes) AS version, array_agg(r.body_version) FILTER (WHERE r.n <= p_limit AND r.before < p_bytes) AS body_version, array_agg(r.expires) FILTER (WHERE r.n <= p_limit AND r.before < p_bytes) AS expires, array_agg(r.head) FILTER (WHERE r.n <= p_limit AND r.before < p_bytes) AS head, array_agg(r.body) FILTER (WHERE r.n <= p_limit AND r.before < p_bytes) AS body FROM (SELECT r.name, r.seq, r.version, r.body_version, r.expires, r.head, r.body, row_number() OVER w AS n, sum(r.size) OVER w - r.size AS before FROM (
                SELECT r.name, r.seq, r.version, r.body_version, r.expires, r.head, CASE WHEN p_bodies = 1 THEN r.body END AS body, (octet_length(r.head) + CASE WHEN p_bodies = 1 THEN octet_length(r.body) ELSE 0 END)::bigint AS size FROM user_record AS r
                    WHERE r.tenant = p_tag AND r.space = p_space AND r.name = p_name AND (r.name, r.seq) > (p_from_name, p_from_seq)
                    ORDER BY r.seq LIMIT p_limit + 1) AS r WINDOW w AS (ORDER BY r.seq)) AS r) AS f ON true
            WHERE s.tenant = p_tag AND s.life = p_life AND s.fence = 0 AND current_schema() = v_place;
    ELSE
        SELECT 0, s.epoch, f.found, f.name, f.seq, f.version, f.body_version, f.expires, f.head, f.body
            INTO o_status, o_epoch, o_found, o_name, o_seq, o_version, o_body_version, o_expires, o_head, o_body
            FROM user_state AS s
            LEFT JOIN LATERAL (SELECT count(*) AS found, array_agg(r.name) FILTER (WHERE r.n <= p_limit AND r.before < p_bytes) AS name, array_agg(r.seq) FILTER (WHERE r.n <= p_limit AND r.before < p_bytes) AS seq, array_agg(r.version) FILTER (WHERE r.n <= p_limit AND r.before < p_bytes) AS version, array_agg(r.body_version) FILTER (WHERE r.n <= p_limit AND r.before < p_bytes) AS body_version, array_agg(r.expires) FILTER (WHERE r.n <= p_limit AND r.before < p_bytes) AS expires, array_agg(r.head) FILTER (WHERE r.n <= p_limit AND r.before < p_bytes) AS head, array_agg(r.body) FILTER (WHERE r.n <= p_limit AND r.before < p_bytes) AS body FROM (SELECT r.name, r.seq, r.version, r.body_version, r.expires, r.head, r.body, row_number() OVER w AS n, sum(r.size) OVER w - r.size AS before FROM (
                SELECT r.name, r.seq, r.version, r.body_version, r.expires, r.head, CASE WHEN p_bodies = 1 THEN r.body END AS body, (octet_length(r.head) + CASE WHEN p_bodies = 1 THEN octet_length(r.body) ELSE 0 END)::bigint AS size FROM user_record AS r
                    WHERE r.tenant = p_tag AND r.space = p_space AND r.name = p_name
                        AND (p_from_name IS NULL OR (r.name, r.seq) < (p_from_name, p_from_seq))
                    ORDER BY r.seq DESC LIMIT p_limit + 1) AS r WINDOW w AS (ORDER BY r.seq DESC)) AS r) AS f ON true
            WHERE s.tenant = p_tag AND s.life = p_life AND s.fence = 0 AND current_schema() = v_place;
    END IF;
    IF o_epoch IS NULL THEN
        o_status := 1;
    END IF;
    v_set := set_config('syntha.user', '', true);
END $$;

-- What changed after an epoch, up to the end of the commit that the `p_limit`-th change belongs to. One statement, so it is of one commit.
-- `o_status` 11: too old.
CREATE OR REPLACE FUNCTION syntha.changes(p_tag bytea, p_life bytea, p_since bigint, p_limit bigint,
    OUT o_status bigint, OUT o_epoch bigint, OUT o_more bigint,
    OUT o_space bigint[], OUT o_name bytea[], OUT o_seq bigint[], OUT o_version bigint[], OUT o_body_version bigint[],
    OUT o_expires bigint[], OUT o_head bytea[],
    OUT o_gone_space bigint[], OUT o_gone_name bytea[], OUT o_gone_seq bigint[])
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_place text := syntha.place(p_tag);
    v_set text;
BEGIN
    v_set := set_config('search_path', v_place || ', pg_temp', true) || set_config('syntha.user', encode(p_tag, 'hex'), true);
    WITH wrote AS (
        SELECT r.space, r.name, r.seq, r.version, r.body_version, r.expires, r.head
            FROM user_record AS r WHERE r.tenant = p_tag AND r.space <> 5 AND r.version > p_since),
    gone AS (
        SELECT d.space, d.name, d.seq, d.epoch FROM user_deleted AS d WHERE d.tenant = p_tag AND d.epoch > p_since),
    step AS (SELECT w.version AS epoch FROM wrote AS w UNION ALL SELECT g.epoch FROM gone AS g),
    last AS (SELECT t.epoch FROM step AS t ORDER BY t.epoch OFFSET p_limit - 1 LIMIT 1),
    reach AS (
        SELECT s.epoch, s.floor,
            CASE WHEN EXISTS (SELECT 1 FROM step AS t WHERE t.epoch > (SELECT l.epoch FROM last AS l))
                THEN (SELECT l.epoch FROM last AS l) ELSE s.epoch END AS until
            FROM user_state AS s
            WHERE s.tenant = p_tag AND s.life = p_life AND s.fence = 0 AND current_schema() = v_place)
    SELECT CASE WHEN p_since < e.floor THEN 11 ELSE 0 END, e.until, CASE WHEN e.until < e.epoch THEN 1 ELSE 0 END,
            f.space, f.name, f.seq, f.version, f.body_version, f.expires, f.head, h.space, h.name, h.seq
        INTO o_status, o_epoch, o_more, o_space, o_name, o_seq, o_version, o_body_version, o_expires, o_head,
            o_gone_space, o_gone_name, o_gone_seq
        FROM reach AS e
        LEFT JOIN LATERAL (
            SELECT array_agg(w.space) AS space, array_agg(w.name) AS name, array_agg(w.seq) AS seq, array_agg(w.version) AS version,
                    array_agg(w.body_version) AS body_version, array_agg(w.expires) AS expires, array_agg(w.head) AS head
                FROM wrote AS w WHERE w.version <= e.until) AS f ON true
        LEFT JOIN LATERAL (
            SELECT array_agg(g.space) AS space, array_agg(g.name) AS name, array_agg(g.seq) AS seq
                FROM (SELECT DISTINCT g.space, g.name, g.seq FROM gone AS g WHERE g.epoch <= e.until
                        AND NOT EXISTS (SELECT 1 FROM user_record AS r
                            WHERE r.tenant = p_tag AND r.space = g.space AND r.name = g.name AND r.seq = g.seq)) AS g) AS h ON true;
    IF NOT FOUND THEN
        o_status := 1;
    END IF;
    v_set := set_config('syntha.user', '', true);
END $$;

-- An import is several statements of one transaction: this first, then pages, then the end. Whoever goes in between leaves nothing.
-- `p_mode`: 0 for a new user, 1 to replace one.
CREATE OR REPLACE FUNCTION syntha.import_begin(p_tag bytea, p_life bytea, p_print bytea, p_mode bigint, OUT o_status bigint)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_place text := syntha.place(p_tag);
    v_set text;
    v_fence bigint;
    v_present bigint;
BEGIN
    INSERT INTO syntha.member (tag, fence, present, format) VALUES (p_tag, 0, 0, 2) ON CONFLICT (tag) DO NOTHING;
    SELECT m.fence, m.present INTO STRICT v_fence, v_present FROM syntha.member AS m WHERE m.tag = p_tag FOR UPDATE;
    o_status := CASE WHEN v_fence = 1 THEN 7 WHEN v_present = 1 AND p_mode = 0 THEN 8 ELSE 0 END;
    IF o_status <> 0 THEN
        RETURN;
    END IF;
    IF v_present = 0 THEN
        PERFORM syntha.begin_life(p_tag, p_life, p_print);
        RETURN;
    END IF;
    v_set := set_config('search_path', v_place || ', pg_temp', true) || set_config('syntha.user', encode(p_tag, 'hex'), true);
    PERFORM 1 FROM user_state AS s WHERE s.tenant = p_tag AND current_schema() = v_place FOR UPDATE;
    DELETE FROM user_record AS r WHERE r.tenant = p_tag;
    DELETE FROM user_deleted AS d WHERE d.tenant = p_tag;
    v_set := set_config('syntha.user', '', true);
END $$;

CREATE OR REPLACE FUNCTION syntha.import_page(p_tag bytea, p_space bigint[], p_name bytea[], p_seq bigint[], p_version bigint[],
    p_body_version bigint[], p_expires bigint[], p_head bytea[], p_body bytea[]) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_place text := syntha.place(p_tag);
    v_set text;
    v_count bigint;
BEGIN
    v_set := set_config('search_path', v_place || ', pg_temp', true) || set_config('syntha.user', encode(p_tag, 'hex'), true);
    INSERT INTO user_record (tenant, space, name, seq, version, body_version, expires, head, body)
        SELECT p_tag, o.space, o.name, o.seq, o.version, o.body_version, o.expires, o.head, o.body
        FROM unnest(p_space, p_name, p_seq, p_version, p_body_version, p_expires, p_head, p_body)
            AS o (space, name, seq, version, body_version, expires, head, body)
        WHERE current_schema() = v_place
        -- The server would write the key of a record that is there twice into its log.
        ON CONFLICT (tenant, space, name, seq) DO NOTHING;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    IF v_count <> cardinality(p_name) THEN
        RAISE EXCEPTION 'the archive holds a record twice' USING ERRCODE = 'SY010';
    END IF;
    v_set := set_config('syntha.user', '', true);
END $$;

-- `p_follow_seq`, `p_follow_head`: where the chain of what is replaced must end; null for anywhere.
CREATE OR REPLACE FUNCTION syntha.import_end(p_tag bytea, p_life bytea, p_print bytea, p_epoch bigint, p_jump bigint,
    p_follow_seq bigint, p_follow_head bytea, p_chain_seq bigint, p_chain_head bytea, p_usage bigint[], p_time bigint, p_note bytea,
    OUT o_status bigint, OUT o_epoch bigint)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_place text := syntha.place(p_tag);
    v_set text;
    v_seq bigint;
    v_head bytea;
BEGIN
    v_set := set_config('search_path', v_place || ', pg_temp', true) || set_config('syntha.user', encode(p_tag, 'hex'), true);
    SELECT greatest(s.epoch, p_epoch) + p_jump, s.chain_seq, s.chain_head INTO STRICT o_epoch, v_seq, v_head
        FROM user_state AS s WHERE s.tenant = p_tag AND current_schema() = v_place FOR UPDATE;
    o_status := CASE WHEN v_seq <> p_follow_seq OR v_head <> p_follow_head THEN 3 ELSE 0 END;
    IF o_status = 0 THEN
        UPDATE user_state AS s SET
                life = p_life, key_print = p_print, epoch = o_epoch, chain_seq = p_chain_seq, chain_head = p_chain_head,
                contexts = p_usage[1], agents = p_usage[2], context_bytes = p_usage[3], history_bytes = p_usage[4],
                time = p_time, fence = 0, note = p_note, recent = '', buried = 0, floor = o_epoch
            WHERE s.tenant = p_tag AND current_schema() = v_place;
        UPDATE syntha.member AS m SET fence = 0, present = 1 WHERE m.tag = p_tag;
    END IF;
    v_set := set_config('syntha.user', '', true);
END $$;
