"""
Books that stay true: what proves them, corrects them and closes them.

    reconciliation.py  proves that all that is derived from the log agrees with it
    log_sums.py        what the log adds up to, in SQL
    adjustments.py     corrections of what was booked
    closed_months.py   months whose bill is written
    retention.py       removes logs of old months
    sealed.py          what is known of them all the same
"""
