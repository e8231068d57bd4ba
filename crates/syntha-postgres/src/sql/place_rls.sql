-- Where a user's tables are: beside everybody's, and the policies tell the rows apart.
CREATE OR REPLACE FUNCTION syntha.place(p_tag bytea) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF octet_length(p_tag) IS DISTINCT FROM 32 THEN
        RAISE EXCEPTION 'a tag has 32 bytes' USING ERRCODE = 'SY009';
    END IF;
    RETURN 'syntha_rows';
END $$;
