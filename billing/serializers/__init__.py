"""What the API takes of what calls cost and who is told."""
