"""The usage pages of the admin: spend, requests, tokens and latency by whatever one asks."""
