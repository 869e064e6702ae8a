"""
One module per dialect, side by side, with the same names in each:

    NAME, UPSTREAM_PATH, BILLABLE
    base_url(target), credential_headers(target)    where the call goes
    read_call(body, model=None)                     body → `Ask`
    read_answer(data)                               a whole answer → `Answer`
    Meter                                           a streamed answer, event by event
    error_body, stream_error                        how an error is written

Adding one: copy the nearest, change every line, add its route in `proxy/urls.py`.
Nothing outside asks which dialect this is.
"""
