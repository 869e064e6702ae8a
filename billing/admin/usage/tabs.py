"""The tabs of the usage page: what each is about, and what its table can be asked for."""

from typing import NamedTuple

from billing.models import HolderType
from billing.reporting.reports import RANKED_BY, Dimension

STACKS = ("model", "customer")  # what spend per day can be stacked by
DAY_ROWS = ("day", "day-model")  # what the overview's table has a row of
_SORTS = ("spend", *RANKED_BY[2:])
_DAY_SORTS = ("day", "spend", "calls", "failed_calls", "total_tokens", "rate")


class Tab(NamedTuple):
    """One tab. dimension: what its table has a row of; None: of days."""

    slug: str
    title: str
    dimension: Dimension | None
    filter: str  # the filter that finds the calls of one row
    singular: str
    holder_type: HolderType | None = None
    none: str = ""  # what calls of none are called

    @property
    def url_name(self) -> str:
        return f"usage:{self.slug}"

    @property
    def sorts(self) -> tuple[str, ...]:
        if self.dimension is None:
            return _DAY_SORTS
        # Keys are put in order by their id, which nobody knows.
        return tuple(name for name in _SORTS if name != "name" or self.dimension != "key")

    @property
    def stacks(self) -> tuple[str, ...]:
        own = self.filter if self.dimension else ""
        return tuple(dict.fromkeys([own, *STACKS])) if own and own != "tag" else STACKS

    @property
    def rows(self) -> tuple[str, ...]:
        return DAY_ROWS if self.dimension is None else ()

    @property
    def default_sort(self) -> str:
        return "-day" if self.dimension is None else "-spend"


OVERVIEW = Tab("overview", "Overview", None, "", "day")
TABS = (
    OVERVIEW,
    Tab("customers", "Customers", "customer", "customer", "customer", HolderType.CUSTOMER, "Unattributed"),
    Tab("models", "Models", "model", "model", "model", None, "No model named"),
    Tab("keys", "Keys", "key", "key", "key", HolderType.KEY),
    Tab("teams", "Teams", "team", "team", "team", HolderType.TEAM, "No team"),
    Tab("users", "Users", "user", "user", "user", HolderType.USER, "No user"),
    Tab("tags", "Tags", "tag", "tag", "tag", HolderType.TAG, "Untagged"),
    Tab("clients", "Clients", "client_tool", "client", "client tool", None, "Unknown client"),
)
