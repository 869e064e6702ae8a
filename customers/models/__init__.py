"""Who calls, and what they may spend."""

from customers.models.audit_log import AuditLog
from customers.models.budget import Budget
from customers.models.change import Change, ChangeCounter, TrackedModel, record_changes
from customers.models.customer import Customer
from customers.models.gateway import GatewayLimits
from customers.models.handout_link import HandoutLink
from customers.models.idempotent_answer import IdempotentAnswer
from customers.models.key import VirtualKey
from customers.models.rate_card import RateCard
from customers.models.tag import Tag
from customers.models.team import Team, TeamMembership
from customers.models.user import User

__all__ = [
    "AuditLog",
    "Budget",
    "Change",
    "ChangeCounter",
    "Customer",
    "GatewayLimits",
    "HandoutLink",
    "IdempotentAnswer",
    "RateCard",
    "Tag",
    "Team",
    "TeamMembership",
    "TrackedModel",
    "User",
    "VirtualKey",
    "record_changes",
]
