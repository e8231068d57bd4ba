-- Where a user's tables are: a schema of the user's own. The name is made of the tag here, so nobody passes one.
-- RFC 4648 base32 in lower case, 52 letters. Written out, because it is done at each call and a loop takes five times as long.
CREATE FUNCTION syntha.place(p_tag bytea) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_letters CONSTANT text := 'abcdefghijklmnopqrstuvwxyz234567';
BEGIN
    IF octet_length(p_tag) IS DISTINCT FROM 32 THEN
        RAISE EXCEPTION 'a tag has 32 bytes' USING ERRCODE = 'SY009';
    END IF;
    RETURN 'u_' || substr(v_letters, ((get_byte(p_tag, 0) >> 3) & 31) + 1, 1) || substr(v_letters, (((get_byte(p_tag, 0) << 2) | (get_byte(p_tag, 1) >> 6)) & 31) + 1, 1) ||
        substr(v_letters, ((get_byte(p_tag, 1) >> 1) & 31) + 1, 1) || substr(v_letters, (((get_byte(p_tag, 1) << 4) | (get_byte(p_tag, 2) >> 4)) & 31) + 1, 1) ||
        substr(v_letters, (((get_byte(p_tag, 2) << 1) | (get_byte(p_tag, 3) >> 7)) & 31) + 1, 1) || substr(v_letters, ((get_byte(p_tag, 3) >> 2) & 31) + 1, 1) ||
        substr(v_letters, (((get_byte(p_tag, 3) << 3) | (get_byte(p_tag, 4) >> 5)) & 31) + 1, 1) || substr(v_letters, ((get_byte(p_tag, 4)) & 31) + 1, 1) ||
        substr(v_letters, ((get_byte(p_tag, 5) >> 3) & 31) + 1, 1) || substr(v_letters, (((get_byte(p_tag, 5) << 2) | (get_byte(p_tag, 6) >> 6)) & 31) + 1, 1) ||
        substr(v_letters, ((get_byte(p_tag, 6) >> 1) & 31) + 1, 1) || substr(v_letters, (((get_byte(p_tag, 6) << 4) | (get_byte(p_tag, 7) >> 4)) & 31) + 1, 1) ||
        substr(v_letters, (((get_byte(p_tag, 7) << 1) | (get_byte(p_tag, 8) >> 7)) & 31) + 1, 1) || substr(v_letters, ((get_byte(p_tag, 8) >> 2) & 31) + 1, 1) ||
        substr(v_letters, (((get_byte(p_tag, 8) << 3) | (get_byte(p_tag, 9) >> 5)) & 31) + 1, 1) || substr(v_letters, ((get_byte(p_tag, 9)) & 31) + 1, 1) ||
        substr(v_letters, ((get_byte(p_tag, 10) >> 3) & 31) + 1, 1) || substr(v_letters, (((get_byte(p_tag, 10) << 2) | (get_byte(p_tag, 11) >> 6)) & 31) + 1, 1) ||
        substr(v_letters, ((get_byte(p_tag, 11) >> 1) & 31) + 1, 1) || substr(v_letters, (((get_byte(p_tag, 11) << 4) | (get_byte(p_tag, 12) >> 4)) & 31) + 1, 1) ||
        substr(v_letters, (((get_byte(p_tag, 12) << 1) | (get_byte(p_tag, 13) >> 7)) & 31) + 1, 1) || substr(v_letters, ((get_byte(p_tag, 13) >> 2) & 31) + 1, 1) ||
        substr(v_letters, (((get_byte(p_tag, 13) << 3) | (get_byte(p_tag, 14) >> 5)) & 31) + 1, 1) || substr(v_letters, ((get_byte(p_tag, 14)) & 31) + 1, 1) ||
        substr(v_letters, ((get_byte(p_tag, 15) >> 3) & 31) + 1, 1) || substr(v_letters, (((get_byte(p_tag, 15) << 2) | (get_byte(p_tag, 16) >> 6)) & 31) + 1, 1) ||
        substr(v_letters, ((get_byte(p_tag, 16) >> 1) & 31) + 1, 1) || substr(v_letters, (((get_byte(p_tag, 16) << 4) | (get_byte(p_tag, 17) >> 4)) & 31) + 1, 1) ||
        substr(v_letters, (((get_byte(p_tag, 17) << 1) | (get_byte(p_tag, 18) >> 7)) & 31) + 1, 1) || substr(v_letters, ((get_byte(p_tag, 18) >> 2) & 31) + 1, 1) ||
        substr(v_letters, (((get_byte(p_tag, 18) << 3) | (get_byte(p_tag, 19) >> 5)) & 31) + 1, 1) || substr(v_letters, ((get_byte(p_tag, 19)) & 31) + 1, 1) ||
        substr(v_letters, ((get_byte(p_tag, 20) >> 3) & 31) + 1, 1) || substr(v_letters, (((get_byte(p_tag, 20) << 2) | (get_byte(p_tag, 21) >> 6)) & 31) + 1, 1) ||
        substr(v_letters, ((get_byte(p_tag, 21) >> 1) & 31) + 1, 1) || substr(v_letters, (((get_byte(p_tag, 21) << 4) | (get_byte(p_tag, 22) >> 4)) & 31) + 1, 1) ||
        substr(v_letters, (((get_byte(p_tag, 22) << 1) | (get_byte(p_tag, 23) >> 7)) & 31) + 1, 1) || substr(v_letters, ((get_byte(p_tag, 23) >> 2) & 31) + 1, 1) ||
        substr(v_letters, (((get_byte(p_tag, 23) << 3) | (get_byte(p_tag, 24) >> 5)) & 31) + 1, 1) || substr(v_letters, ((get_byte(p_tag, 24)) & 31) + 1, 1) ||
        substr(v_letters, ((get_byte(p_tag, 25) >> 3) & 31) + 1, 1) || substr(v_letters, (((get_byte(p_tag, 25) << 2) | (get_byte(p_tag, 26) >> 6)) & 31) + 1, 1) ||
        substr(v_letters, ((get_byte(p_tag, 26) >> 1) & 31) + 1, 1) || substr(v_letters, (((get_byte(p_tag, 26) << 4) | (get_byte(p_tag, 27) >> 4)) & 31) + 1, 1) ||
        substr(v_letters, (((get_byte(p_tag, 27) << 1) | (get_byte(p_tag, 28) >> 7)) & 31) + 1, 1) || substr(v_letters, ((get_byte(p_tag, 28) >> 2) & 31) + 1, 1) ||
        substr(v_letters, (((get_byte(p_tag, 28) << 3) | (get_byte(p_tag, 29) >> 5)) & 31) + 1, 1) || substr(v_letters, ((get_byte(p_tag, 29)) & 31) + 1, 1) ||
        substr(v_letters, ((get_byte(p_tag, 30) >> 3) & 31) + 1, 1) || substr(v_letters, (((get_byte(p_tag, 30) << 2) | (get_byte(p_tag, 31) >> 6)) & 31) + 1, 1) ||
        substr(v_letters, ((get_byte(p_tag, 31) >> 1) & 31) + 1, 1) || substr(v_letters, ((get_byte(p_tag, 31) << 4) & 31) + 1, 1);
END $$;
