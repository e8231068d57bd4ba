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
-- after an erase. `format`: the version of the user's tables.
CREATE TABLE syntha.member (
    tag bytea PRIMARY KEY CHECK (octet_length(tag) = 32),
    fence bigint NOT NULL,
    present bigint NOT NULL,
    format bigint NOT NULL
);
CREATE INDEX member_to_drop ON syntha.member (tag) WHERE present = 2;
