"""
Benchmarks: `make bench`, which is `python -m bench`; it writes `docs/benchmarks.md`.

Figures are ratios against other things measured in the same interleaved run: the
machine's own speed, and what its neighbours do meanwhile, cancel out.

    __main__.py    options, the order of things
    machine.py     cores, processes and their CPU time
    parties.py     provider, nginx and gateway: started, measured, put away
    load.py        load generators: wrk; an open loop; streams
    rounds.py      what one round measures
    steps.py       what each step of a call costs inside one process
    page.py        the figures as a page
    sections.py    sections of that page that others write
    peers/         other gateways, optional

This measures and judges nothing but time: no test asserts any of it.
"""
