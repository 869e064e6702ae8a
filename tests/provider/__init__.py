"""
The fake provider: the one fake in the suite, an HTTP server with a bill of its own.

It speaks five dialects of OpenAI and Anthropic well enough for their real SDKs,
misbehaves on request (`behaviour.py` lists every field a call may set) and adds up
what it charges (`bill.py`), so that a test can compare that sum with what the
gateway booked. It imports the standard library only, nothing of the product, so no
mistake of the product's can hide in it; uvloop is used where it is installed.

    python -m tests.provider --port 0        # prints the address, serves until SIGTERM

    with ProviderProcess() as provider:
        ...                                  # call provider.url + "/v1"
        provider.bill()["total_nano_usd"]

Where things are: `connection.py` HTTP/1.1, `provider.py` routes and control routes,
`answers.py` what is sent and how it goes wrong, `calls.py` one call's numbers,
`dialects/` the wire formats, `process.py` the helper above.
"""

from tests.provider.process import ProviderProcess

__all__ = ["ProviderProcess"]
