-- Called by statement triggers on the application's tables (signal_on_change): whoever changes such a table, from
-- psql or another program, signals. With the rights of the owner, because that somebody need not have any here.

CREATE FUNCTION procman.signal() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    INSERT INTO procman.signal_delta (signal_group, token)
    VALUES (TG_ARGV[0], ('x' || substr(md5(gen_random_uuid()::text), 1, 16))::bit(64)::bigint & x'7fffffffffffffff'::bigint);
    RETURN NULL;
END
$$;
