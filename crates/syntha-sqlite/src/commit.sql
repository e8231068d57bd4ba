-- What takes a commit, format 4. Format 3 kept links beside the other records, format 2 had no notes and no rewrites, format 1 one view for
-- every batch and a blob row for every record; opening such a file drops its views and makes these.
PRAGMA user_version = 4;

-- A commit is one INSERT into one of these views: one statement, so nothing is left half-done by a caller who goes.
-- `expects`, `deletes`, `heads`, `rewrites` and `puts` are JSON objects with a member for each record, whose value a and name b are numbers:
--     a: place (from 1) in `data` of the name's bytes, bits 0 to 27; length of name, 28 to 38; length of head, 39 to 51; keyspace, from 52.
--     b: length of body, bits 0 to 27; from 28, the place in `data` of two numbers of 20 ASCII characters, sequence and expiry or
--        expected version, -1 for "none" (in `deletes`, -1 for "every sequence"). No place means sequence 0 and none.
-- Name, head and body stand one after the other. `clears` is an array of keyspaces. An empty list is NULL, so that its statement does
-- nothing at all. `LIMIT -1` keeps the engine from computing a and b anew for each use.
-- The lists whose names begin with `link_` hold links, whose keyspace and name say nothing more.

-- The commonest batch: one record and one link are put, or one of them, and a stamp or a chain is expected. Every other view ends here too.
CREATE VIEW do_put (incarnation, epoch, chain, raise, batch, log, chain_seq, chain_head,
                    contexts, agents, context_bytes, history_bytes, time, note,
                    space, name, seq, expires, head, body, link_seq, link_head, link_body)
AS SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL;

CREATE TRIGGER do_put_insert INSTEAD OF INSERT ON do_put BEGIN
    UPDATE user SET
        epoch = CASE
            WHEN incarnation IS NOT NEW.incarnation OR fence <> 0 THEN RAISE(ABORT, 'syntha:gone')
            WHEN epoch <> NEW.epoch THEN RAISE(ABORT, 'syntha:stamp')
            WHEN chain_seq <> NEW.chain THEN RAISE(ABORT, 'syntha:chain')
            ELSE epoch + NEW.raise END,
        chain_seq = coalesce(NEW.chain_seq, chain_seq),
        chain_head = coalesce(NEW.chain_head, chain_head),
        contexts = coalesce(NEW.contexts, contexts),
        agents = coalesce(NEW.agents, agents),
        context_bytes = coalesce(NEW.context_bytes, context_bytes),
        history_bytes = coalesce(NEW.history_bytes, history_bytes),
        time = max(time, NEW.time),
        note = coalesce(NEW.note, note),
        recent = substr(CAST(recent || NEW.batch || printf('%016x', epoch + NEW.raise) AS BLOB), -1536),
        log = CASE WHEN NEW.raise
            THEN substr(CAST(log || '|' || printf('%016x', epoch + NEW.raise) || NEW.log AS BLOB), -1920) ELSE log END;
    INSERT INTO record (space, name, seq, version, body_version, expires, owner, head, body)
        SELECT NEW.space, NEW.name, NEW.seq, u.epoch, u.epoch, NEW.expires, substr(u.tag, 1, 16), NEW.head, NEW.body
        FROM user AS u WHERE NEW.space IS NOT NULL
        ON CONFLICT (space, name, seq) DO UPDATE SET
            version = excluded.version, body_version = excluded.body_version, expires = excluded.expires,
            owner = excluded.owner, head = excluded.head, body = excluded.body;
    INSERT INTO link (seq, version, body_version, expires, owner, head, body)
        SELECT NEW.link_seq, u.epoch, u.epoch, NULL, substr(u.tag, 1, 16), NEW.link_head, NEW.link_body
        FROM user AS u WHERE NEW.link_seq IS NOT NULL
        ON CONFLICT (seq) DO UPDATE SET
            version = excluded.version, body_version = excluded.body_version, expires = excluded.expires,
            owner = excluded.owner, head = excluded.head, body = excluded.body;
END;

-- A batch that only puts, and at most one link.
CREATE VIEW do_puts (incarnation, epoch, chain, raise, batch, log, chain_seq, chain_head,
                     contexts, agents, context_bytes, history_bytes, time, note, link_seq, link_head, link_body, puts, data)
AS SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL;

CREATE TRIGGER do_puts_insert INSTEAD OF INSERT ON do_puts BEGIN
    INSERT INTO do_put VALUES (NEW.incarnation, NEW.epoch, NEW.chain, NEW.raise, NEW.batch, NEW.log, NEW.chain_seq, NEW.chain_head,
        NEW.contexts, NEW.agents, NEW.context_bytes, NEW.history_bytes, NEW.time, NEW.note,
        NULL, NULL, NULL, NULL, NULL, NULL, NEW.link_seq, NEW.link_head, NEW.link_body);
    INSERT INTO record (space, name, seq, version, body_version, expires, owner, head, body)
        SELECT p.a >> 52, substr(NEW.data, p.a & 0xfffffff, (p.a >> 28) & 0x7ff),
               CASE WHEN p.b >> 28 THEN CAST(substr(NEW.data, p.b >> 28, 20) AS INTEGER) ELSE 0 END,
               u.epoch, u.epoch,
               nullif(CASE WHEN p.b >> 28 THEN CAST(substr(NEW.data, (p.b >> 28) + 20, 20) AS INTEGER) ELSE -1 END, -1),
               substr(u.tag, 1, 16),
               substr(NEW.data, (p.a & 0xfffffff) + ((p.a >> 28) & 0x7ff), (p.a >> 39) & 0x1fff),
               substr(NEW.data, (p.a & 0xfffffff) + ((p.a >> 28) & 0x7ff) + ((p.a >> 39) & 0x1fff), p.b & 0xfffffff)
        FROM (SELECT e.value AS a, CAST(e.key AS INTEGER) AS b FROM json_each(NEW.puts) AS e LIMIT -1) AS p
        CROSS JOIN user AS u
        WHERE NEW.puts IS NOT NULL
        ON CONFLICT (space, name, seq) DO UPDATE SET
            version = excluded.version, body_version = excluded.body_version, expires = excluded.expires,
            owner = excluded.owner, head = excluded.head, body = excluded.body;
END;

-- What a batch does to links beside putting one. `clear`: 1 for all of them, else 0.
CREATE VIEW do_links (data, clear, puts, expects, deletes, heads, rewrites) AS SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL;

CREATE TRIGGER do_links_insert INSTEAD OF INSERT ON do_links BEGIN
    SELECT RAISE(ABORT, 'syntha:version')
        FROM (SELECT e.value AS a, CAST(e.key AS INTEGER) AS b FROM json_each(NEW.expects) AS e LIMIT -1) AS p
        LEFT JOIN link AS r ON r.seq = CASE WHEN p.b >> 28 THEN CAST(substr(NEW.data, p.b >> 28, 20) AS INTEGER) ELSE 0 END
        WHERE NEW.expects IS NOT NULL AND coalesce(r.version, -1) <> CASE WHEN p.b >> 28 THEN CAST(substr(NEW.data, (p.b >> 28) + 20, 20) AS INTEGER) ELSE -1 END;
    SELECT RAISE(ABORT, 'syntha:absent')
        FROM (SELECT e.value AS a, CAST(e.key AS INTEGER) AS b FROM json_each(NEW.heads) AS e LIMIT -1) AS p
        LEFT JOIN link AS r ON r.seq = CASE WHEN p.b >> 28 THEN CAST(substr(NEW.data, p.b >> 28, 20) AS INTEGER) ELSE 0 END
        WHERE NEW.heads IS NOT NULL AND r.seq IS NULL;
    DELETE FROM link WHERE NEW.clear;
    DELETE FROM link WHERE NEW.deletes IS NOT NULL AND seq IN (
        SELECT CASE WHEN p.b >> 28 THEN CAST(substr(NEW.data, p.b >> 28, 20) AS INTEGER) ELSE 0 END FROM (SELECT e.value AS a, CAST(e.key AS INTEGER) AS b FROM json_each(NEW.deletes) AS e LIMIT -1) AS p);
    INSERT INTO link (seq, version, body_version, expires, owner, head, body)
        SELECT CASE WHEN p.b >> 28 THEN CAST(substr(NEW.data, p.b >> 28, 20) AS INTEGER) ELSE 0 END, u.epoch, u.epoch, nullif(CASE WHEN p.b >> 28 THEN CAST(substr(NEW.data, (p.b >> 28) + 20, 20) AS INTEGER) ELSE -1 END, -1), substr(u.tag, 1, 16),
               substr(NEW.data, (p.a & 0xfffffff) + ((p.a >> 28) & 0x7ff), (p.a >> 39) & 0x1fff),
               substr(NEW.data, (p.a & 0xfffffff) + ((p.a >> 28) & 0x7ff) + ((p.a >> 39) & 0x1fff), p.b & 0xfffffff)
        FROM (SELECT e.value AS a, CAST(e.key AS INTEGER) AS b FROM json_each(NEW.puts) AS e LIMIT -1) AS p
        CROSS JOIN user AS u
        WHERE NEW.puts IS NOT NULL
        ON CONFLICT (seq) DO UPDATE SET
            version = excluded.version, body_version = excluded.body_version, expires = excluded.expires,
            owner = excluded.owner, head = excluded.head, body = excluded.body;
    UPDATE link SET
        head = substr(NEW.data, (p.a & 0xfffffff) + ((p.a >> 28) & 0x7ff), (p.a >> 39) & 0x1fff),
        expires = nullif(CASE WHEN p.b >> 28 THEN CAST(substr(NEW.data, (p.b >> 28) + 20, 20) AS INTEGER) ELSE -1 END, -1),
        version = (SELECT epoch FROM user)
        FROM (SELECT e.value AS a, CAST(e.key AS INTEGER) AS b FROM json_each(NEW.heads) AS e LIMIT -1) AS p
        WHERE NEW.heads IS NOT NULL AND link.seq = CASE WHEN p.b >> 28 THEN CAST(substr(NEW.data, p.b >> 28, 20) AS INTEGER) ELSE 0 END;
    -- Their versions stand in `expects`.
    UPDATE link SET
        head = substr(NEW.data, (p.a & 0xfffffff) + ((p.a >> 28) & 0x7ff), (p.a >> 39) & 0x1fff),
        body = substr(NEW.data, (p.a & 0xfffffff) + ((p.a >> 28) & 0x7ff) + ((p.a >> 39) & 0x1fff), p.b & 0xfffffff)
        FROM (SELECT e.value AS a, CAST(e.key AS INTEGER) AS b FROM json_each(NEW.rewrites) AS e LIMIT -1) AS p
        WHERE NEW.rewrites IS NOT NULL AND link.seq = CASE WHEN p.b >> 28 THEN CAST(substr(NEW.data, p.b >> 28, 20) AS INTEGER) ELSE 0 END;
END;

CREATE VIEW do_commit (incarnation, epoch, chain, raise, batch, log, chain_seq, chain_head,
                       contexts, agents, context_bytes, history_bytes, time, note, puts, data, expects, clears, deletes, heads, rewrites,
                       link_clear, link_puts, link_expects, link_deletes, link_heads, link_rewrites)
AS SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
          NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL;

CREATE TRIGGER do_commit_insert INSTEAD OF INSERT ON do_commit BEGIN
    -- Here too, so that "gone" and a moved stamp are told before a version is.
    SELECT CASE
        WHEN incarnation IS NOT NEW.incarnation OR fence <> 0 THEN RAISE(ABORT, 'syntha:gone')
        WHEN epoch <> NEW.epoch THEN RAISE(ABORT, 'syntha:stamp')
        WHEN chain_seq <> NEW.chain THEN RAISE(ABORT, 'syntha:chain') END
        FROM user;
    SELECT RAISE(ABORT, 'syntha:version')
        FROM (SELECT e.value AS a, CAST(e.key AS INTEGER) AS b FROM json_each(NEW.expects) AS e LIMIT -1) AS p
        LEFT JOIN record AS r
            ON r.space = p.a >> 52 AND r.name = substr(NEW.data, p.a & 0xfffffff, (p.a >> 28) & 0x7ff)
            AND r.seq = CASE WHEN p.b >> 28 THEN CAST(substr(NEW.data, p.b >> 28, 20) AS INTEGER) ELSE 0 END
        WHERE NEW.expects IS NOT NULL
            AND coalesce(r.version, -1) <> CASE WHEN p.b >> 28 THEN CAST(substr(NEW.data, (p.b >> 28) + 20, 20) AS INTEGER) ELSE -1 END;
    SELECT RAISE(ABORT, 'syntha:absent')
        FROM (SELECT e.value AS a, CAST(e.key AS INTEGER) AS b FROM json_each(NEW.heads) AS e LIMIT -1) AS p
        LEFT JOIN record AS r
            ON r.space = p.a >> 52 AND r.name = substr(NEW.data, p.a & 0xfffffff, (p.a >> 28) & 0x7ff)
            AND r.seq = CASE WHEN p.b >> 28 THEN CAST(substr(NEW.data, p.b >> 28, 20) AS INTEGER) ELSE 0 END
        WHERE NEW.heads IS NOT NULL AND r.row IS NULL;
    DELETE FROM record WHERE NEW.clears IS NOT NULL AND space IN (SELECT value FROM json_each(NEW.clears));
    DELETE FROM record WHERE NEW.deletes IS NOT NULL AND row IN (
        SELECT r.row FROM (SELECT e.value AS a, CAST(e.key AS INTEGER) AS b FROM json_each(NEW.deletes) AS e LIMIT -1) AS p
        CROSS JOIN record AS r
            ON r.space = p.a >> 52 AND r.name = substr(NEW.data, p.a & 0xfffffff, (p.a >> 28) & 0x7ff)
            AND r.seq >= CASE WHEN p.b >> 28 THEN CAST(substr(NEW.data, p.b >> 28, 20) AS INTEGER) ELSE 0 END
            AND r.seq <= CASE CASE WHEN p.b >> 28 THEN CAST(substr(NEW.data, p.b >> 28, 20) AS INTEGER) ELSE 0 END
                WHEN -1 THEN 0x7fffffffffffffff ELSE CASE WHEN p.b >> 28 THEN CAST(substr(NEW.data, p.b >> 28, 20) AS INTEGER) ELSE 0 END END);
    INSERT INTO do_puts VALUES (NEW.incarnation, NEW.epoch, NEW.chain, NEW.raise, NEW.batch, NEW.log, NEW.chain_seq, NEW.chain_head,
        NEW.contexts, NEW.agents, NEW.context_bytes, NEW.history_bytes, NEW.time, NEW.note,
        NULL, NULL, NULL, NEW.puts, NEW.data);
    UPDATE record SET
        head = substr(NEW.data, (p.a & 0xfffffff) + ((p.a >> 28) & 0x7ff), (p.a >> 39) & 0x1fff),
        expires = nullif(CASE WHEN p.b >> 28 THEN CAST(substr(NEW.data, (p.b >> 28) + 20, 20) AS INTEGER) ELSE -1 END, -1),
        version = (SELECT epoch FROM user)
        FROM (SELECT e.value AS a, CAST(e.key AS INTEGER) AS b FROM json_each(NEW.heads) AS e LIMIT -1) AS p
        WHERE NEW.heads IS NOT NULL AND record.space = p.a >> 52 AND record.name = substr(NEW.data, p.a & 0xfffffff, (p.a >> 28) & 0x7ff)
            AND record.seq = CASE WHEN p.b >> 28 THEN CAST(substr(NEW.data, p.b >> 28, 20) AS INTEGER) ELSE 0 END;
    -- Their versions stand in `expects`.
    UPDATE record SET
        head = substr(NEW.data, (p.a & 0xfffffff) + ((p.a >> 28) & 0x7ff), (p.a >> 39) & 0x1fff),
        body = substr(NEW.data, (p.a & 0xfffffff) + ((p.a >> 28) & 0x7ff) + ((p.a >> 39) & 0x1fff), p.b & 0xfffffff)
        FROM (SELECT e.value AS a, CAST(e.key AS INTEGER) AS b FROM json_each(NEW.rewrites) AS e LIMIT -1) AS p
        WHERE NEW.rewrites IS NOT NULL AND record.space = p.a >> 52 AND record.name = substr(NEW.data, p.a & 0xfffffff, (p.a >> 28) & 0x7ff)
            AND record.seq = CASE WHEN p.b >> 28 THEN CAST(substr(NEW.data, p.b >> 28, 20) AS INTEGER) ELSE 0 END;
    INSERT INTO do_links SELECT NEW.data, NEW.link_clear, NEW.link_puts, NEW.link_expects, NEW.link_deletes, NEW.link_heads, NEW.link_rewrites
        WHERE NEW.link_clear IS NOT NULL;
END;
