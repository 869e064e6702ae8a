"""
What OpenAI's four dialects have in common: headers, errors, models.

Source: platform.openai.com/docs/api-reference, "Debugging requests" and "Error codes".
"""

from typing import Any

from tests.provider.calls import Call

RATE_LIMITS = (
    b"openai-version: 2020-10-01\r\n"
    b"openai-organization: fake-provider\r\n"
    b"openai-processing-ms: 12\r\n"
    b"x-ratelimit-limit-requests: 10000\r\n"
    b"x-ratelimit-remaining-requests: 9999\r\n"
    b"x-ratelimit-reset-requests: 6ms\r\n"
    b"x-ratelimit-limit-tokens: 2000000\r\n"
    b"x-ratelimit-remaining-tokens: 1999900\r\n"
    b"x-ratelimit-reset-tokens: 3ms\r\n"
)
ERRORS = {  # status: type, code
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
    503: ("service_unavailable_error", None),
}


def headers(call: Call) -> bytes:
    return RATE_LIMITS + f"x-request-id: {call.request_id}\r\n".encode()


def error_body(status: int, message: str, request_id: str) -> dict[str, Any]:
    kind, code = ERRORS.get(status, ("server_error", None))
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def model_body(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 1677610602, "owned_by": "openai"}


def models_body(names: list[str]) -> dict[str, Any]:
    return {"object": "list", "data": [model_body(name) for name in names]}


def wants_usage_chunk(call: Call) -> bool:
    options = call.request.get("stream_options")
    return bool(isinstance(options, dict) and options.get("include_usage")) and not call.fake.no_usage


def completion_usage(call: Call) -> dict[str, Any]:
    """Return the usage of chat completions; `prompt_tokens` includes cached and written tokens."""
    prompt_details = {"cached_tokens": call.cache_read, "audio_tokens": 0}
    if call.cache_write_5m:
        prompt_details["cache_write_tokens"] = call.cache_write_5m
    return {
        "prompt_tokens": call.input_tokens,
        "completion_tokens": call.output_tokens,
        "total_tokens": call.input_tokens + call.output_tokens,
        "prompt_tokens_details": prompt_details,
        "completion_tokens_details": {
            "reasoning_tokens": call.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
