-- Where a user's tables are: a schema of the user's own. The name is made of the tag here, so nobody passes one.
-- RFC 4648 base32 in lower case, 52 letters, two at a time from a table of all pairs: it is done at each call, and costs a third of one letter at a time.
CREATE OR REPLACE FUNCTION syntha.place(p_tag bytea) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_pairs CONSTANT bytea := 'aaabacadaeafagahaiajakalamanaoapaqarasatauavawaxayaza2a3a4a5a6a7babbbcbdbebfbgbhbibjbkblbmbnbobpbqbrbsbtbubvbwbxbybzb2b3b4b5b6b7'
        'cacbcccdcecfcgchcicjckclcmcncocpcqcrcsctcucvcwcxcyczc2c3c4c5c6c7dadbdcdddedfdgdhdidjdkdldmdndodpdqdrdsdtdudvdwdxdydzd2d3d4d5d6d7'
        'eaebecedeeefegeheiejekelemeneoepeqereseteuevewexeyeze2e3e4e5e6e7fafbfcfdfefffgfhfifjfkflfmfnfofpfqfrfsftfufvfwfxfyfzf2f3f4f5f6f7'
        'gagbgcgdgegfggghgigjgkglgmgngogpgqgrgsgtgugvgwgxgygzg2g3g4g5g6g7hahbhchdhehfhghhhihjhkhlhmhnhohphqhrhshthuhvhwhxhyhzh2h3h4h5h6h7'
        'iaibicidieifigihiiijikiliminioipiqirisitiuiviwixiyizi2i3i4i5i6i7jajbjcjdjejfjgjhjijjjkjljmjnjojpjqjrjsjtjujvjwjxjyjzj2j3j4j5j6j7'
        'kakbkckdkekfkgkhkikjkkklkmknkokpkqkrksktkukvkwkxkykzk2k3k4k5k6k7lalblcldlelflglhliljlklllmlnlolplqlrlsltlulvlwlxlylzl2l3l4l5l6l7'
        'mambmcmdmemfmgmhmimjmkmlmmmnmompmqmrmsmtmumvmwmxmymzm2m3m4m5m6m7nanbncndnenfngnhninjnknlnmnnnonpnqnrnsntnunvnwnxnynzn2n3n4n5n6n7'
        'oaobocodoeofogohoiojokolomonooopoqorosotouovowoxoyozo2o3o4o5o6o7papbpcpdpepfpgphpipjpkplpmpnpopppqprpsptpupvpwpxpypzp2p3p4p5p6p7'
        'qaqbqcqdqeqfqgqhqiqjqkqlqmqnqoqpqqqrqsqtquqvqwqxqyqzq2q3q4q5q6q7rarbrcrdrerfrgrhrirjrkrlrmrnrorprqrrrsrtrurvrwrxryrzr2r3r4r5r6r7'
        'sasbscsdsesfsgshsisjskslsmsnsospsqsrssstsusvswsxsyszs2s3s4s5s6s7tatbtctdtetftgthtitjtktltmtntotptqtrtstttutvtwtxtytzt2t3t4t5t6t7'
        'uaubucudueufuguhuiujukulumunuoupuqurusutuuuvuwuxuyuzu2u3u4u5u6u7vavbvcvdvevfvgvhvivjvkvlvmvnvovpvqvrvsvtvuvvvwvxvyvzv2v3v4v5v6v7'
        'wawbwcwdwewfwgwhwiwjwkwlwmwnwowpwqwrwswtwuwvwwwxwywzw2w3w4w5w6w7xaxbxcxdxexfxgxhxixjxkxlxmxnxoxpxqxrxsxtxuxvxwxxxyxzx2x3x4x5x6x7'
        'yaybycydyeyfygyhyiyjykylymynyoypyqyrysytyuyvywyxyyyzy2y3y4y5y6y7zazbzczdzezfzgzhzizjzkzlzmznzozpzqzrzsztzuzvzwzxzyzzz2z3z4z5z6z7'
        '2a2b2c2d2e2f2g2h2i2j2k2l2m2n2o2p2q2r2s2t2u2v2w2x2y2z2223242526273a3b3c3d3e3f3g3h3i3j3k3l3m3n3o3p3q3r3s3t3u3v3w3x3y3z323334353637'
        '4a4b4c4d4e4f4g4h4i4j4k4l4m4n4o4p4q4r4s4t4u4v4w4x4y4z4243444546475a5b5c5d5e5f5g5h5i5j5k5l5m5n5o5p5q5r5s5t5u5v5w5x5y5z525354555657'
        '6a6b6c6d6e6f6g6h6i6j6k6l6m6n6o6p6q6r6s6t6u6v6w6x6y6z6263646566677a7b7c7d7e7f7g7h7i7j7k7l7m7n7o7p7q7r7s7t7u7v7w7x7y7z727374757677';
BEGIN
    IF octet_length(p_tag) IS DISTINCT FROM 32 THEN
        RAISE EXCEPTION 'a tag has 32 bytes' USING ERRCODE = 'SY009';
    END IF;
    RETURN 'u_' || convert_from(substr(v_pairs, ((get_byte(p_tag, 0) << 2) | (get_byte(p_tag, 1) >> 6)) * 2 + 1, 2) || substr(v_pairs, (((get_byte(p_tag, 1) & 63) << 4) | (get_byte(p_tag, 2) >> 4)) * 2 + 1, 2)
        || substr(v_pairs, (((get_byte(p_tag, 2) & 15) << 6) | (get_byte(p_tag, 3) >> 2)) * 2 + 1, 2) || substr(v_pairs, (((get_byte(p_tag, 3) & 3) << 8) | get_byte(p_tag, 4)) * 2 + 1, 2)
        || substr(v_pairs, ((get_byte(p_tag, 5) << 2) | (get_byte(p_tag, 6) >> 6)) * 2 + 1, 2) || substr(v_pairs, (((get_byte(p_tag, 6) & 63) << 4) | (get_byte(p_tag, 7) >> 4)) * 2 + 1, 2)
        || substr(v_pairs, (((get_byte(p_tag, 7) & 15) << 6) | (get_byte(p_tag, 8) >> 2)) * 2 + 1, 2) || substr(v_pairs, (((get_byte(p_tag, 8) & 3) << 8) | get_byte(p_tag, 9)) * 2 + 1, 2)
        || substr(v_pairs, ((get_byte(p_tag, 10) << 2) | (get_byte(p_tag, 11) >> 6)) * 2 + 1, 2) || substr(v_pairs, (((get_byte(p_tag, 11) & 63) << 4) | (get_byte(p_tag, 12) >> 4)) * 2 + 1, 2)
        || substr(v_pairs, (((get_byte(p_tag, 12) & 15) << 6) | (get_byte(p_tag, 13) >> 2)) * 2 + 1, 2) || substr(v_pairs, (((get_byte(p_tag, 13) & 3) << 8) | get_byte(p_tag, 14)) * 2 + 1, 2)
        || substr(v_pairs, ((get_byte(p_tag, 15) << 2) | (get_byte(p_tag, 16) >> 6)) * 2 + 1, 2) || substr(v_pairs, (((get_byte(p_tag, 16) & 63) << 4) | (get_byte(p_tag, 17) >> 4)) * 2 + 1, 2)
        || substr(v_pairs, (((get_byte(p_tag, 17) & 15) << 6) | (get_byte(p_tag, 18) >> 2)) * 2 + 1, 2) || substr(v_pairs, (((get_byte(p_tag, 18) & 3) << 8) | get_byte(p_tag, 19)) * 2 + 1, 2)
        || substr(v_pairs, ((get_byte(p_tag, 20) << 2) | (get_byte(p_tag, 21) >> 6)) * 2 + 1, 2) || substr(v_pairs, (((get_byte(p_tag, 21) & 63) << 4) | (get_byte(p_tag, 22) >> 4)) * 2 + 1, 2)
        || substr(v_pairs, (((get_byte(p_tag, 22) & 15) << 6) | (get_byte(p_tag, 23) >> 2)) * 2 + 1, 2) || substr(v_pairs, (((get_byte(p_tag, 23) & 3) << 8) | get_byte(p_tag, 24)) * 2 + 1, 2)
        || substr(v_pairs, ((get_byte(p_tag, 25) << 2) | (get_byte(p_tag, 26) >> 6)) * 2 + 1, 2) || substr(v_pairs, (((get_byte(p_tag, 26) & 63) << 4) | (get_byte(p_tag, 27) >> 4)) * 2 + 1, 2)
        || substr(v_pairs, (((get_byte(p_tag, 27) & 15) << 6) | (get_byte(p_tag, 28) >> 2)) * 2 + 1, 2) || substr(v_pairs, (((get_byte(p_tag, 28) & 3) << 8) | get_byte(p_tag, 29)) * 2 + 1, 2)
        || substr(v_pairs, ((get_byte(p_tag, 30) << 2) | (get_byte(p_tag, 31) >> 6)) * 2 + 1, 2) || substr(v_pairs, ((get_byte(p_tag, 31) & 63) << 4) * 2 + 1, 2), 'SQL_ASCII');
END $$;
