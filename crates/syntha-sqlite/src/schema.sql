-- Format 1 of a user's file. Numbers that other code knows: application_id "SYNT", keyspace 5 = audit.
PRAGMA application_id = 1398361684;
PRAGMA user_version = 1;

-- One row. Every commit writes it, so its page stands in every write-ahead log of this file.
CREATE TABLE user (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    tag BLOB NOT NULL,
    key_print BLOB NOT NULL,
    incarnation BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    chain_seq INTEGER NOT NULL,
    chain_head BLOB NOT NULL,
    contexts INTEGER NOT NULL,
    agents INTEGER NOT NULL,
    context_bytes INTEGER NOT NULL,
    history_bytes INTEGER NOT NULL,
    time INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    -- ASCII, kept as bytes because cutting bytes costs nothing. The last commits, 48 characters each: batch id and epoch as hexadecimal text.
    recent BLOB NOT NULL,
    -- What the last commits changed, so that another handle can follow: for each '|', the epoch, and then either '!' for
    -- "more than fits" or ',' and for each record 'p' (written) or 'd' (deleted), keyspace, ':', sequence, ':', name, as hexadecimal text.
    log BLOB NOT NULL
) STRICT;

CREATE TABLE record (
    row INTEGER PRIMARY KEY,
    space INTEGER NOT NULL,
    name BLOB NOT NULL,
    seq INTEGER NOT NULL,
    version INTEGER NOT NULL,
    body_version INTEGER NOT NULL,
    expires INTEGER,
    owner BLOB NOT NULL,
    head BLOB NOT NULL,
    body BLOB NOT NULL,
    UNIQUE (space, name, seq)
) STRICT;
CREATE INDEX record_expires ON record (expires) WHERE expires IS NOT NULL;

-- A commit is one INSERT into this view: one statement, so nothing is left half-done by a caller who goes.
-- `expects`, `deletes`, `heads` and `puts` are JSON arrays of the places (from 1) of rows in the blob `data`. A row is ASCII numbers of a fixed
-- width: keyspace 3, sequence 20, expiry or expected version 20, place of the bytes 10, lengths of name 5, head 5 and body 10, where name, head
-- and body stand one after the other; -1 is "none". An empty list is NULL, so that its statement does nothing at all.
CREATE VIEW do_commit (incarnation, epoch, chain, expects, clears, deletes, heads, puts, data, log,
                       raise, batch, chain_seq, chain_head, contexts, agents, context_bytes, history_bytes, time)
AS SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
          NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL;

CREATE TRIGGER do_commit_insert INSTEAD OF INSERT ON do_commit BEGIN
    SELECT CASE
        WHEN incarnation IS NOT NEW.incarnation OR fence <> 0 THEN RAISE(ABORT, 'syntha:gone')
        WHEN NEW.epoch IS NOT NULL AND epoch <> NEW.epoch THEN RAISE(ABORT, 'syntha:stamp')
        WHEN NEW.chain IS NOT NULL AND chain_seq <> NEW.chain THEN RAISE(ABORT, 'syntha:chain') END
        FROM user;
    SELECT RAISE(ABORT, 'syntha:version')
        FROM json_each(NEW.expects) AS e
        LEFT JOIN record AS r
            ON r.space = CAST(substr(NEW.data, e.value, 3) AS INTEGER)
            AND r.name = substr(NEW.data, CAST(substr(NEW.data, e.value + 43, 10) AS INTEGER),
                                CAST(substr(NEW.data, e.value + 53, 5) AS INTEGER))
            AND r.seq = CAST(substr(NEW.data, e.value + 3, 20) AS INTEGER)
        WHERE NEW.expects IS NOT NULL AND coalesce(r.version, -1) <> CAST(substr(NEW.data, e.value + 23, 20) AS INTEGER);
    SELECT RAISE(ABORT, 'syntha:absent')
        FROM json_each(NEW.heads) AS e
        LEFT JOIN record AS r
            ON r.space = CAST(substr(NEW.data, e.value, 3) AS INTEGER)
            AND r.name = substr(NEW.data, CAST(substr(NEW.data, e.value + 43, 10) AS INTEGER),
                                CAST(substr(NEW.data, e.value + 53, 5) AS INTEGER))
            AND r.seq = CAST(substr(NEW.data, e.value + 3, 20) AS INTEGER)
        WHERE NEW.heads IS NOT NULL AND r.row IS NULL;
    UPDATE user SET
        epoch = epoch + NEW.raise,
        chain_seq = coalesce(NEW.chain_seq, chain_seq),
        chain_head = coalesce(NEW.chain_head, chain_head),
        contexts = coalesce(NEW.contexts, contexts),
        agents = coalesce(NEW.agents, agents),
        context_bytes = coalesce(NEW.context_bytes, context_bytes),
        history_bytes = coalesce(NEW.history_bytes, history_bytes),
        time = max(time, NEW.time),
        recent = substr(CAST(recent || NEW.batch || printf('%016x', epoch + NEW.raise) AS BLOB), -1536),
        log = CASE WHEN NEW.raise
            THEN substr(CAST(log || '|' || printf('%016x', epoch + NEW.raise) || NEW.log AS BLOB), -1920) ELSE log END;
    DELETE FROM record WHERE NEW.clears IS NOT NULL AND space IN (SELECT value FROM json_each(NEW.clears));
    DELETE FROM record WHERE NEW.deletes IS NOT NULL AND row IN (
        SELECT r.row FROM json_each(NEW.deletes) AS e
        JOIN record AS r
            ON r.space = CAST(substr(NEW.data, e.value, 3) AS INTEGER)
            AND r.name = substr(NEW.data, CAST(substr(NEW.data, e.value + 43, 10) AS INTEGER),
                                CAST(substr(NEW.data, e.value + 53, 5) AS INTEGER))
            AND CAST(substr(NEW.data, e.value + 3, 20) AS INTEGER) IN (-1, r.seq));
    INSERT INTO record (space, name, seq, version, body_version, expires, owner, head, body)
        SELECT p.space, substr(NEW.data, p.place, p.name), p.seq, u.epoch, u.epoch, nullif(p.expires, -1), substr(u.tag, 1, 16),
               substr(NEW.data, p.place + p.name, p.head), substr(NEW.data, p.place + p.name + p.head, p.body)
        FROM (SELECT CAST(substr(NEW.data, e.value, 3) AS INTEGER) AS space,
                     CAST(substr(NEW.data, e.value + 3, 20) AS INTEGER) AS seq,
                     CAST(substr(NEW.data, e.value + 23, 20) AS INTEGER) AS expires,
                     CAST(substr(NEW.data, e.value + 43, 10) AS INTEGER) AS place,
                     CAST(substr(NEW.data, e.value + 53, 5) AS INTEGER) AS name,
                     CAST(substr(NEW.data, e.value + 58, 5) AS INTEGER) AS head,
                     CAST(substr(NEW.data, e.value + 63, 10) AS INTEGER) AS body
              FROM json_each(NEW.puts) AS e) AS p, user AS u WHERE NEW.puts IS NOT NULL
        ON CONFLICT (space, name, seq) DO UPDATE SET
            version = excluded.version, body_version = excluded.body_version, expires = excluded.expires,
            owner = excluded.owner, head = excluded.head, body = excluded.body;
    UPDATE record SET
        head = substr(NEW.data, p.place + p.name, p.head), expires = nullif(p.expires, -1),
        version = (SELECT epoch FROM user)
        FROM (SELECT CAST(substr(NEW.data, e.value, 3) AS INTEGER) AS space,
                     CAST(substr(NEW.data, e.value + 3, 20) AS INTEGER) AS seq,
                     CAST(substr(NEW.data, e.value + 23, 20) AS INTEGER) AS expires,
                     CAST(substr(NEW.data, e.value + 43, 10) AS INTEGER) AS place,
                     CAST(substr(NEW.data, e.value + 53, 5) AS INTEGER) AS name,
                     CAST(substr(NEW.data, e.value + 58, 5) AS INTEGER) AS head
              FROM json_each(NEW.heads) AS e) AS p
        WHERE NEW.heads IS NOT NULL AND record.space = p.space AND record.name = substr(NEW.data, p.place, p.name) AND record.seq = p.seq;
END;
