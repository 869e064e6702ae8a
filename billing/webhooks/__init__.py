"""Events, the outbox, and its delivery to endpoints."""
