-- Version 2: what was deleted since an epoch is found by the epoch. In the mode `schema` each user's tables get it by themselves, in `migrate_user`.
CREATE INDEX IF NOT EXISTS user_deleted_epoch ON syntha_rows.user_deleted (tenant, epoch);
