-- The signal store: "delta + fold digest". A writer inserts a random token for its group into signal_delta, in
-- its own transaction; a reader takes (count, xor) per group over both tables, in its own snapshot; now and then
-- somebody moves the deltas into signal_base, which changes no group's (count, xor).

CREATE TABLE procman.signal_base (
    signal_group text PRIMARY KEY,
    signals bigint NOT NULL,
    token bigint NOT NULL
);

-- No index: an insert must not wait for anybody, and the table is short. Vacuum comes by number, not by share.
CREATE TABLE procman.signal_delta (
    signal_group text NOT NULL,
    token bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500,
        autovacuum_vacuum_insert_threshold = -1, autovacuum_analyze_threshold = 1000000);

-- Tells this database from another one that has had the same name: no process may take its caches for ours.
INSERT INTO procman.signal_base (signal_group, signals, token)
VALUES ('procman.epoch', 0, ('x' || substr(md5(gen_random_uuid()::text), 1, 16))::bit(64)::bigint);
