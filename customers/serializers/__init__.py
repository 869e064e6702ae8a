"""What the API takes: one module per noun, fields named as in the contract."""
