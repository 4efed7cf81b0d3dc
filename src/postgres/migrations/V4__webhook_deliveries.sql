-- Events of the forge, one row a delivery: what was received and what was answered. A repeat (the same
-- delivery, or the same signed body under another number) is answered from here. The API writes it and
-- removes rows after 14 days.
CREATE TABLE webhook_deliveries (
    namespace text NOT NULL,
    -- X-GitHub-Delivery; made of the body's hash where there is none.
    delivery text NOT NULL,
    body_hash bytea NOT NULL,
    id uuid NOT NULL,
    -- webhook.<event>[.<action>]
    type text NOT NULL,
    payload jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- Since when somebody carries it out; who was killed meanwhile loses it after a minute.
    claimed_at timestamptz NOT NULL DEFAULT now(),
    answer jsonb,
    PRIMARY KEY (namespace, delivery),
    UNIQUE (namespace, body_hash)
);
CREATE INDEX webhook_deliveries_oldest ON webhook_deliveries (created_at);
