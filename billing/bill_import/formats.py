"""
Read the exports of OpenAI and Anthropic: what was billed or used, by day (UTC) and model.

    openai costs        start_time[_iso] amount_value amount_currency [line_item]
    openai usage        start_time[_iso] num_model_requests input_tokens output_tokens [model]
    openai line items   usage_date_utc model usage_type cost_usd
    anthropic costs     usage_date_utc model token_type cost_usd [list_price_usd]
    anthropic tokens    usage_date_utc model_version usage_input_tokens_no_cache … usage_output_tokens

The form is told by its columns; other columns are ignored, and never kept: exports name keys,
people and projects. A line item of OpenAI's costs is `gpt-5-nano, input_tokens`; Anthropic's
costs name models by their titles, `Claude Haiku 4.5`. Amounts are exact decimals of USD.

Source: files exported from platform.openai.com (usage) and console.anthropic.com (cost, usage), 2026.
"""

import csv
import io
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import NamedTuple

from customers.money import to_nano

_MOST_LINES = 2_000_000
_NANO = Decimal("1e-9")
_Row = Mapping[str, str]


class BadBill(ValueError):
    """The file is no export that we know; the text says what is wrong and what is expected."""


class Billed(NamedTuple):
    """What one model was billed on one day; None: the export does not say."""

    cost_nano: int | None
    input_tokens: int | None
    output_tokens: int | None
    requests: int | None


class Bill(NamedTuple):
    """An export that was read. model empty: the export has no models."""

    provider: str
    form: str
    lines: dict[tuple[date, str], Billed]


class Form(NamedTuple):
    """One kind of export: how it is known, and what a row of it says."""

    name: str
    provider: str
    needs: frozenset[str]
    without: frozenset[str]  # columns by which it is another kind
    day: Callable[[_Row], date]
    model: Callable[[_Row], str]
    cost: str = ""  # the column; empty: the export has no amounts
    currency: str = ""
    input_tokens: tuple[str, ...] = ()
    output_tokens: tuple[str, ...] = ()
    requests: str = ""


def read_bill(data: bytes) -> Bill:
    """Read an export. Raises: BadBill."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadBill(f"The file is no text in UTF-8. {_expected()}") from None
    try:
        rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        columns = [name.strip().lower() for name in rows.fieldnames or () if name]
        form = _form_of(frozenset(columns))
        rows.fieldnames = [(name or "").strip().lower() for name in rows.fieldnames or ()]
        return _added_up(form, rows)
    except csv.Error as error:
        raise BadBill(f"The file is no CSV: {error}. {_expected()}") from None


def _added_up(form: Form, rows: csv.DictReader) -> Bill:
    sums: dict[tuple[date, str], list[Decimal]] = defaultdict(lambda: [Decimal(0)] * 4)
    exact = {"cost": form.cost, "requests": form.requests}
    for number, row in enumerate(rows, 2):
        if number > _MOST_LINES:
            raise BadBill(f"The file has more than {_MOST_LINES:,} lines: export fewer days at once.")
        if form.cost and not (row.get(form.cost) or "").strip():
            continue  # a day without an amount
        try:
            key = form.day(row), form.model(row)[:255]
            _check_currency(form, row)
            line = sums[key]
            line[0] += _number(row, exact["cost"])
            line[1] += sum(_number(row, name) for name in form.input_tokens)
            line[2] += sum(_number(row, name) for name in form.output_tokens)
            line[3] += _number(row, exact["requests"])
        except (ValueError, OverflowError, OSError, TypeError) as error:
            raise BadBill(f"Line {number}: {error}.") from None
    if not sums:
        raise BadBill("The file has no line with an amount: choose days on which something was used.")
    return Bill(form.provider, form.name, {key: _billed(form, line) for key, line in sums.items()})


def _billed(form: Form, line: list[Decimal]) -> Billed:
    # Exports have more digits than money here: a sum is rounded once.
    cost = to_nano(line[0].quantize(_NANO, ROUND_HALF_EVEN)) if form.cost else None
    return Billed(
        cost,
        int(line[1]) if form.input_tokens else None,
        int(line[2]) if form.output_tokens else None,
        int(line[3]) if form.requests else None,
    )


def _check_currency(form: Form, row: _Row) -> None:
    said = (row.get(form.currency) or "usd").strip().lower() if form.currency else "usd"
    if said != "usd":
        raise ValueError(f"amounts are in {said!r}; only USD can be compared")


def _number(row: _Row, column: str) -> Decimal:
    said = (row.get(column) or "").strip() if column else ""
    if not said:
        return Decimal(0)
    try:
        number = Decimal(said)
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or abs(number) > 10**15:
        raise ValueError(f"{column} is {said[:40]!r}, which is no number")
    return number


# -- the forms ---------------------------------------------------------------------------


def _usage_date(row: _Row) -> date:
    said = (row.get("usage_date_utc") or "").strip()
    try:
        return date.fromisoformat(said[:10])
    except ValueError:
        raise ValueError(f"usage_date_utc is {said[:40]!r}, which is no day") from None


def _start_day(row: _Row) -> date:
    said = (row.get("start_time_iso") or "").strip()
    if said:
        at = datetime.fromisoformat(said)
        return (at.astimezone(UTC) if at.tzinfo else at).date()
    return datetime.fromtimestamp(int(row.get("start_time") or ""), UTC).date()


def _line_item(row: _Row) -> str:
    """Return the model of a line item: `gpt-5-nano, input_tokens` or `gpt-4o-mini-2024-07-18 output`."""
    return (row.get("line_item") or "").strip().partition(",")[0].strip()


def _titled(row: _Row) -> str:
    """Return Anthropic's name of a model by its title: `Claude Haiku 4.5` is `claude-haiku-4-5`."""
    return re.sub(r"[\s.]+", "-", (row.get("model") or "").strip().lower())


def _column(name: str) -> Callable[[_Row], str]:
    return lambda row: (row.get(name) or "").strip()


_FORMS = (
    Form(
        "openai costs", "openai", frozenset(("start_time", "amount_value")), frozenset(),
        _start_day, _line_item, cost="amount_value", currency="amount_currency",
    ),
    Form(
        "openai usage", "openai", frozenset(("start_time", "num_model_requests", "input_tokens")),
        frozenset(), _start_day, _column("model"), input_tokens=("input_tokens",),
        output_tokens=("output_tokens",), requests="num_model_requests",
    ),
    Form(
        "anthropic costs", "anthropic", frozenset(("usage_date_utc", "cost_usd", "token_type")),
        frozenset(), _usage_date, _titled, cost="cost_usd",
    ),
    Form(
        "anthropic tokens", "anthropic",
        frozenset(("usage_date_utc", "model_version", "usage_output_tokens")), frozenset(),
        _usage_date, _column("model_version"),
        input_tokens=(
            "usage_input_tokens_no_cache", "usage_input_tokens_cache_write_5m",
            "usage_input_tokens_cache_write_1h", "usage_input_tokens_cache_read",
        ),
        output_tokens=("usage_output_tokens",),
    ),
    Form(
        "openai line items", "openai", frozenset(("usage_date_utc", "model", "cost_usd", "usage_type")),
        frozenset(("token_type", "list_price_usd")), _usage_date, _column("model"), cost="cost_usd",
    ),
)  # fmt: skip


def _form_of(columns: frozenset[str]) -> Form:
    for form in _FORMS:
        if form.needs <= columns and not form.without & columns:
            return form
    found = ", ".join(sorted(columns))[:300] or "none"
    raise BadBill(f"The columns are those of no export that we know: {found}. {_expected()}")


def _expected() -> str:
    forms = "; ".join(f"{form.name} ({', '.join(sorted(form.needs))})" for form in _FORMS)
    return f"Expected is a CSV export with at least these columns: {forms}."
