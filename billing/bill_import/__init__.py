"""Provider bills: what a provider says it billed, beside what was booked for the same days and models."""
