-- What a unit reads as it begins. In a function for its plan, which PostgreSQL keeps for the session (43.11.2): half of
-- the query's cost was planning it, and a prepared statement would not survive a PgBouncer in transaction mode.

CREATE FUNCTION procman.signals(OUT signal_group text, OUT signals bigint, OUT token bigint, OUT deltas bigint)
RETURNS SETOF record LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY
    SELECT signal.signal_group, sum(signal.signals)::bigint, bit_xor(signal.token), count(*) FILTER (WHERE signal.delta)
    FROM (
        SELECT base.signal_group, base.signals, base.token, false AS delta FROM procman.signal_base AS base
        UNION ALL
        SELECT unfolded.signal_group, 1, unfolded.token, true FROM procman.signal_delta AS unfolded
    ) AS signal
    GROUP BY signal.signal_group;
END
$$;
