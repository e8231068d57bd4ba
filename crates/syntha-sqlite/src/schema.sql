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
    floor INTEGER NOT NULL,
    recent TEXT NOT NULL
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
CREATE INDEX record_version ON record (version);
CREATE INDEX record_expires ON record (expires) WHERE expires IS NOT NULL;

-- A commit is one INSERT into this view: one statement, so nothing is left half-done by a caller who goes.
-- Lists are JSON arrays of arrays; texts and blobs stand in `data` and are named by start (from 1) and length.
CREATE VIEW do_commit (incarnation, epoch, chain, expects, clears, deletes, heads, puts, data,
                       raise, batch, chain_seq, chain_head, contexts, agents, context_bytes, history_bytes, time)
AS SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
          NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL;

CREATE TRIGGER do_commit_insert INSTEAD OF INSERT ON do_commit BEGIN
    SELECT RAISE(ABORT, 'syntha:gone') FROM user WHERE incarnation IS NOT NEW.incarnation OR fence <> 0;
    SELECT RAISE(ABORT, 'syntha:stamp') FROM user WHERE NEW.epoch IS NOT NULL AND epoch <> NEW.epoch;
    SELECT RAISE(ABORT, 'syntha:chain') FROM user WHERE NEW.chain IS NOT NULL AND chain_seq <> NEW.chain;
    SELECT RAISE(ABORT, 'syntha:version')
        FROM json_each(NEW.expects) AS e
        LEFT JOIN record AS r ON r.space = e.value ->> 0 AND r.name = substr(NEW.data, e.value ->> 1, e.value ->> 2)
                             AND r.seq = e.value ->> 3
        WHERE r.version IS NOT (e.value ->> 4);
    SELECT RAISE(ABORT, 'syntha:absent')
        FROM json_each(NEW.heads) AS e
        LEFT JOIN record AS r ON r.space = e.value ->> 0 AND r.name = substr(NEW.data, e.value ->> 1, e.value ->> 2)
                             AND r.seq = e.value ->> 3
        WHERE r.row IS NULL;
    UPDATE user SET
        epoch = epoch + NEW.raise,
        chain_seq = coalesce(NEW.chain_seq, chain_seq),
        chain_head = coalesce(NEW.chain_head, chain_head),
        contexts = coalesce(NEW.contexts, contexts),
        agents = coalesce(NEW.agents, agents),
        context_bytes = coalesce(NEW.context_bytes, context_bytes),
        history_bytes = coalesce(NEW.history_bytes, history_bytes),
        time = max(time, NEW.time),
        floor = CASE WHEN NEW.clears = '[]' AND NEW.deletes = '[]' THEN floor ELSE epoch + NEW.raise END,
        recent = substr(recent || NEW.batch || printf('%016x', epoch + NEW.raise), -1536);
    DELETE FROM record WHERE space IN (SELECT value FROM json_each(NEW.clears));
    DELETE FROM record WHERE row IN (
        SELECT r.row FROM json_each(NEW.deletes) AS e
        JOIN record AS r ON r.space = e.value ->> 0 AND r.name = substr(NEW.data, e.value ->> 1, e.value ->> 2)
                        AND (e.value ->> 3 IS NULL OR r.seq = e.value ->> 3));
    INSERT INTO record (space, name, seq, version, body_version, expires, owner, head, body)
        SELECT e.value ->> 0, substr(NEW.data, e.value ->> 1, e.value ->> 2), e.value ->> 3,
               u.epoch, u.epoch, e.value ->> 4, substr(u.tag, 1, 16),
               substr(NEW.data, e.value ->> 5, e.value ->> 6), substr(NEW.data, e.value ->> 7, e.value ->> 8)
        FROM json_each(NEW.puts) AS e, user AS u WHERE true
        ON CONFLICT (space, name, seq) DO UPDATE SET
            version = excluded.version, body_version = excluded.body_version, expires = excluded.expires,
            owner = excluded.owner, head = excluded.head, body = excluded.body;
    UPDATE record SET
        head = substr(NEW.data, e.value ->> 5, e.value ->> 6), expires = e.value ->> 4,
        version = (SELECT epoch FROM user)
        FROM json_each(NEW.heads) AS e
        WHERE record.space = e.value ->> 0 AND record.name = substr(NEW.data, e.value ->> 1, e.value ->> 2)
          AND record.seq = e.value ->> 3;
END;
