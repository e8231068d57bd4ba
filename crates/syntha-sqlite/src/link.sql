-- The records of keyspace 5 without a name: links of the audit chain. They come in the order of their numbers, one with each commit, so a page
-- takes several, and no index is written.
CREATE TABLE link (
    seq INTEGER PRIMARY KEY,
    version INTEGER NOT NULL,
    body_version INTEGER NOT NULL,
    expires INTEGER,
    owner BLOB NOT NULL,
    head BLOB NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE INDEX link_expires ON link (expires) WHERE expires IS NOT NULL;
