-- The tables of the mode `rls`. The policy names a setting, never a role, and an empty or missing setting is nobody.
SELECT syntha.make_tables('syntha_rows');
DO $$
DECLARE
    v_table text;
BEGIN
    FOREACH v_table IN ARRAY ARRAY['user_state', 'user_record', 'user_deleted'] LOOP
        EXECUTE format('ALTER TABLE syntha_rows.%I ENABLE ROW LEVEL SECURITY', v_table);
        EXECUTE format('ALTER TABLE syntha_rows.%I FORCE ROW LEVEL SECURITY', v_table);
        EXECUTE format('CREATE POLICY everyone ON syntha_rows.%I AS PERMISSIVE FOR ALL TO PUBLIC USING (true) WITH CHECK (true)', v_table);
        EXECUTE format('CREATE POLICY tenant ON syntha_rows.%I AS RESTRICTIVE FOR ALL TO PUBLIC
            USING (tenant = decode(nullif(current_setting(''syntha.user'', true), ''''), ''hex''))
            WITH CHECK (tenant = decode(nullif(current_setting(''syntha.user'', true), ''''), ''hex''))', v_table);
    END LOOP;
END $$;
