"""What we booked, beside what the provider billed for the same call."""

from typing import Any

_INPUT = ("input_uncached", "cache_read", "cache_write_5m", "cache_write_1h")
_UNUSED = ("input_audio", "output_audio", "input_image", "output_image")


def assert_is_as_billed(row: dict[str, Any], entry: dict[str, Any]) -> None:
    """Assert that a spend log has exactly the tokens and the cost of the provider's entry.

    The provider counts reasoning inside its output; our buckets are disjoint.
    """
    billed = entry["usage"]
    expected = {name: billed[name] for name in _INPUT} | dict.fromkeys(_UNUSED, 0)
    expected |= {"output_text": billed["output"] - billed["reasoning"], "reasoning": billed["reasoning"]}

    assert {name: row[name] for name in expected} == expected
    assert row["cost"] == row["charge"] == entry["cost_nano_usd"]
    assert row["usage_source"] == "provider"
    assert (row["status"], row["http_status"]) == ("success", entry["status"])
    assert (row["dialect"], row["streamed"]) == (entry["dialect"], entry["stream"])
    if row["dialect"] != "openai_embeddings":  # whose answers carry no id
        assert row["response_id"] == entry["id"]
