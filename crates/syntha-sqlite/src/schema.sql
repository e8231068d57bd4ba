-- The tables of a user's file. Format 3 added the column `note`, at the end of its table, format 4 the table `link`. What takes a commit stands in `commit.sql`.
-- Numbers that other code knows: application_id "SYNT", keyspace 5 = audit.
PRAGMA application_id = 1398361684;

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
    log BLOB NOT NULL,
    -- What a layer above keeps here. Opaque.
    note BLOB NOT NULL DEFAULT x''
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
