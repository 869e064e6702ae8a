"""
From a finished call to its rows, exactly once.

    records.py     the three records that a call leaves
    journal.py     where a web process writes them, on disk before the database
    recorder.py    takes finished calls from journals
    ledger.py      writes them: one transaction, fenced
    rollups.py     adds them to their day's rows
    summaries.py   adds up days that are over
    partitions.py  months of the log, on PostgreSQL
    estimates.py   what a call used where the provider does not say
    write_turn.py  whose turn it is to write
"""
