"""
Rate limits: requests and tokens per minute, and requests at a time.

`rules.py` is what may be limited, `windows.py` the arithmetic of a sliding minute,
`memory.py` and `redis.py` two homes of the counters with the same methods, and
`limiter.py` what a call meets: it takes from all of its rules or from none, and
gives back or corrects when it is over. Told at length in docs/rate-limits.md.
"""
