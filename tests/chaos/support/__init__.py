"""What the fault tests share: load, the comparison of bill and log, and ways to break things."""
