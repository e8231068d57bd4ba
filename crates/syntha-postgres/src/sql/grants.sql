-- The application role may call what the store calls, and nothing else. Its name is in a setting of this transaction.
REVOKE ALL ON SCHEMA syntha FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA syntha FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA syntha FROM PUBLIC;
DO $$
DECLARE
    v_role text := current_setting('syntha.app_role');
    v_function text;
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA syntha TO %I', v_role);
    FOR v_function IN
        SELECT p.oid::regprocedure::text FROM pg_proc AS p
            WHERE p.pronamespace = 'syntha'::regnamespace AND p.prosecdef
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', v_function, v_role);
    END LOOP;
END $$;
