"""Other people's clients against our gateway: `make interop`. Each in an environment of its own."""
