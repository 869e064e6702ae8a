"""The API of models: what may be called, at which price, through which upstream."""
