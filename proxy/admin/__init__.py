"""The admin of where calls go."""

from proxy.admin import deployment, upstream

__all__ = ["deployment", "upstream"]
