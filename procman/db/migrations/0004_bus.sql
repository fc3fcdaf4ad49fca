-- The bus: messages in the order in which their transactions committed.
--
-- START WITH 2: 1 is then the position of a bus that has never carried a message, and 0 is free to mean "from
-- now on" in a poll. CACHE must stay 1: a session that keeps numbers for later would break the order of commits.
-- message is json, not jsonb: what was sent is passed on as it was written, and nothing ever looks into it.
CREATE TABLE procman.bus (
    id bigint GENERATED ALWAYS AS IDENTITY (START WITH 2 CACHE 1) PRIMARY KEY,
    channel text NOT NULL,
    message json NOT NULL,
    created timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- For a reader who comes back after the listeners have dropped from memory what it has missed.
CREATE INDEX bus_channel_id ON procman.bus (channel, id);
