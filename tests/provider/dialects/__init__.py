"""
The wire formats, one module each, with the same names in all of them.

`NAME`, `ID_PREFIX`, `PROMPT_FIELDS` (where the prompt's text is), `MAXIMUM_FIELDS`
(what limits the output; empty: there is none), `CAN_STREAM`, `CACHES`, `CACHES_1H`,
`INPUT_INCLUDES_CACHE`; `headers(call)`, `body(call)`, `events(call)` (see `sse.Frames`)
and `error_body(status, message, request_id)`.
"""
