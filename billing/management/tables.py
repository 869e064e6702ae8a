"""
How the commands tell figures: a table for people, JSON for programs, CSV for spreadsheets.

Amounts are exact, with all their digits, in all three. In a terminal the table has lines,
colours and a bar for the share; into a file or a pipe it is plain text of the same figures.
"""

import csv
import io
import shutil
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from billing.reporting.reports import Tally
from billing.reporting.spreadsheets import spreadsheet_safe
from billing.reporting.words import percent
from customers.money import from_nano, plain_usd
from customers.words import count, usd

# Kinds of lines.
NAME, PART, REST, NONE, TOTAL = "name", "part", "rest", "none", "total"
_LABELS = {REST: "All others", NONE: "Unattributed", TOTAL: "Total"}
_BAR = 10  # characters
_FULL, _EIGHTHS = "█", " ▏▎▍▌▋▊▉"
_SHARE_PLACES = 6


class Line(NamedTuple):
    """The sums of one name, or of the rest.

    kind: NAME, PART (of the name above it), REST (names beyond the limit), NONE (calls
    without any) or TOTAL. names: what the line is about, for the first columns of names.
    """

    kind: str
    names: tuple[str, ...]
    tally: Tally


class Sheet(NamedTuple):
    """One table.

    headings: of the columns of names. is_charged: whether spend is what customers are
    charged or what providers bill. whole: what shares are of. shown: how a name is told
    to people, where that is not the name itself: by column and name. beyond: how many
    names have no line of their own.
    """

    headings: tuple[str, ...]
    lines: Sequence[Line]
    is_charged: bool
    whole: Tally
    shown: Callable[[str, str], str]
    beyond: int = 0


def spend_nano(tally: Tally, *, is_charged: bool) -> int:
    return tally.charge if is_charged else tally.cost


# -- for programs and spreadsheets -------------------------------------------------------


def record(sheet: Sheet, line: Line) -> dict[str, Any]:
    """Return a line as a JSON object; amounts are `Decimal`, and exact."""
    tally = line.tally
    spend, whole = (spend_nano(each, is_charged=sheet.is_charged) for each in (tally, sheet.whole))
    names = dict.fromkeys(sheet.headings) | dict(zip(sheet.headings, line.names, strict=False))
    return {
        "row": line.kind,
        **names,
        "spend_usd": from_nano(spend),
        "cost_usd": from_nano(tally.cost),
        "charge_usd": from_nano(tally.charge),
        "share": round(Decimal(spend) / whole, _SHARE_PLACES) if whole else None,
        "requests": tally.calls,
        "successful": tally.calls - tally.failed_calls,
        "failed": tally.failed_calls,
        "unpriced": tally.unpriced_calls,
        "estimated": tally.estimated_calls,
        "cache_hits": tally.cache_hits,
        "prompt_tokens": tally.prompt_tokens,
        "completion_tokens": tally.completion_tokens,
        "total_tokens": tally.prompt_tokens + tally.completion_tokens,
    }


def records(sheet: Sheet) -> list[dict[str, Any]]:
    return [record(sheet, line) for line in sheet.lines]


def as_json(document: Any) -> str:
    """Write a document; a `Decimal` becomes a number with exactly its digits."""
    return msgspec.json.format(msgspec.json.encode(_plain(document))).decode()


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return msgspec.Raw(plain_usd(value).encode())
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Write rows of the same names. No cell is one that a spreadsheet computes."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow(
            [
                spreadsheet_safe(plain_usd(each) if isinstance(each, Decimal) else each)
                for each in row.values()
            ]
        )
    return out.getvalue()


# -- for people --------------------------------------------------------------------------


def as_text(sheet: Sheet, out: Any, *, has_colour: bool = True) -> str:
    """Draw a table as `out` can show it. has_colour: where it is a terminal."""
    fancy = is_terminal(out)
    table = Table(
        box=box.SIMPLE_HEAD if fancy else None,
        show_edge=False,
        pad_edge=False,
        header_style="bold" if fancy else "",
    )
    for heading in sheet.headings:
        table.add_column(heading.replace("_", " ").capitalize(), overflow="fold")
    amount = "Charged" if sheet.is_charged else "Spend"
    numbers = [amount, "Share", "Requests", "Success", "Tokens", "Unpriced", "Estimated"]
    has_bar = fancy and _can_write(out, _FULL)
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
        if heading == "Share" and has_bar:
            table.add_column("", no_wrap=True)
    for line in sheet.lines:
        if line.kind == TOTAL:
            table.add_section()
        table.add_row(*_cells(sheet, line, has_bar=has_bar), style=_style(line) if fancy else "")
    return _drawn(table, out, has_colour=has_colour)


def _cells(sheet: Sheet, line: Line, *, has_bar: bool) -> list[Text]:
    tally = line.tally
    spend, whole = (spend_nano(each, is_charged=sheet.is_charged) for each in (tally, sheet.whole))
    names = [sheet.shown(*pair) for pair in zip(sheet.headings, line.names, strict=False)]
    if line.kind == PART:
        names[0] = ""  # the line above has it
    elif line.kind in _LABELS:
        names = [*[""] * len(names), _LABELS[line.kind]]
    names += [""] * (len(sheet.headings) - len(names))
    cells = [*map(printable, names), usd(from_nano(spend)), percent(spend, whole)]
    if has_bar:
        cells.append(_bar(spend, whole))
    cells += [
        count(tally.calls),
        percent(tally.calls - tally.failed_calls, tally.calls),
        count(tally.prompt_tokens + tally.completion_tokens),
        count(tally.unpriced_calls),
        count(tally.estimated_calls),
    ]
    return [Text(cell) for cell in cells]


def _style(line: Line) -> str:
    return {TOTAL: "bold", NONE: "yellow", PART: "dim", REST: "dim"}.get(line.kind, "")


def _bar(part: int, whole: int) -> str:
    if part <= 0 or whole <= 0:
        return ""
    eighths = min(part, whole) * _BAR * 8 // whole
    return (_FULL * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip() or _EIGHTHS[1]


def _drawn(table: Table, out: Any, *, has_colour: bool) -> str:
    """Return the table as text, as wide as it has to be: a terminal breaks lines, never an amount."""
    fancy, drawn = is_terminal(out), io.StringIO()
    natural = Console(width=10_000).measure(table).maximum
    width = max(natural, shutil.get_terminal_size().columns) if fancy else natural
    console = Console(
        file=drawn,
        width=width,
        force_terminal=fancy,
        color_system="standard" if fancy and has_colour else None,
        highlight=False,
        markup=False,
        emoji=False,
        safe_box=not _can_write(out, "─"),
    )
    console.print(table)
    return "\n".join(line.rstrip() for line in drawn.getvalue().rstrip("\n").split("\n"))


def printable(text: str) -> str:
    """Return a name that cannot move a terminal's cursor or colour it: names come from callers."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def is_terminal(out: Any) -> bool:
    return bool(getattr(out, "isatty", lambda: False)())


def _can_write(out: Any, text: str) -> bool:
    try:
        text.encode(getattr(out, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
