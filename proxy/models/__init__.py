"""Where calls go."""

from proxy.models.deployment import Deployment
from proxy.models.upstream import Upstream

__all__ = ["Deployment", "Upstream"]
