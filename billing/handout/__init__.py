"""One customer's usage for the customer itself: a page behind a link, and JSON for read tokens."""
