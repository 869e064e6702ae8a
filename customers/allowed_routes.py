"""
Which routes a key may call at all: its `allowed_routes`, or the preset of its type (contract 1.3).

An entry is a path (`/customer/info`), a beginning of paths (`/spend/*`), or a group:

    llm_api_routes      calls that go to a provider, and the list of models
    management_routes   the API, reading and writing
    info_routes         what of the API only reads
"""

from collections.abc import Collection, Sequence

from customers.models.key import VirtualKey

LLM_API, MANAGEMENT, INFO = "llm_api_routes", "management_routes", "info_routes"
GROUPS = (LLM_API, MANAGEMENT, INFO)
_PRESETS = {
    VirtualKey.KeyType.LLM_API: [LLM_API],
    VirtualKey.KeyType.MANAGEMENT: [MANAGEMENT],
    VirtualKey.KeyType.READ_ONLY: [INFO],
}


def routes_of(key: VirtualKey) -> list[str]:
    """Return what confines a key; empty: nothing does."""
    return key.allowed_routes or _PRESETS.get(VirtualKey.KeyType(key.key_type), [])


def is_allowed(allowed: Sequence[str], path: str, groups: Collection[str]) -> bool:
    """Tell whether a key confined to `allowed` may call `path`, which belongs to `groups`."""
    return not allowed or any(
        entry in groups or entry == path or (entry.endswith("*") and path.startswith(entry[:-1]))
        for entry in allowed
    )


def validate_routes(allowed: Sequence[str]) -> None:
    """Raises: ValueError that says what an entry may be."""
    for entry in allowed:
        if entry not in GROUPS and not entry.startswith("/"):
            raise ValueError(f"{entry!r} is neither a path (/customer/info, /spend/*) nor one of {GROUPS}.")
