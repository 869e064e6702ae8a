"""What pages, exports and the API say of spend and calls."""
