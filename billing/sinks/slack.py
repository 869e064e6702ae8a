"""
Slack: an event as blocks, posted to an incoming webhook. Discord takes the same at its `…/slack` address.

The address is a secret: whoever knows it can write into the channel. It is that of
SLACK_WEBHOOK_URL, or one that an alert rule has for itself (target `rule 7`), sealed at rest.

Source: Slack's reference of Block Kit and of incoming webhooks, as of 2025.
"""

import asyncio
from typing import Any

import httpx
from django.conf import settings
from django.db import connection

from billing.alerts.secrets import slack_target, unsealed_url
from billing.models import AlertRule, Delivery, Event
from billing.sinks.base import Outcome
from billing.sinks.notice import Listed, Notice, notice_of
from billing.webhooks.egress import GuardedTransport, RefusedAddress
from customers.sealing import CannotUnseal

_MARKS = {"High": ":red_circle:", "Medium": ":large_orange_circle:", "Low": ":large_blue_circle:"}
_MOST_TITLE, _MOST_TEXT, _MOST_FIELDS, _MOST_NAME = 150, 1900, 10, 100
_GONE = (400, 401, 403, 404, 410)  # the address is wrong or was taken back, or Slack cannot read the message


class SlackSink:
    """Posts to Slack. Addresses of rules are read once a run, by a thread of its own."""

    channel = "slack"

    def __init__(self) -> None:
        self._client = httpx.AsyncClient(
            transport=GuardedTransport(max_connections=4),
            timeout=settings.WEBHOOK_TIMEOUT_SECONDS,
            follow_redirects=False,
            trust_env=False,
        )
        self._of_rules: dict[str, str] | None = None

    async def send(self, delivery: Delivery, event: Event) -> Outcome:
        url = await self._url(delivery.target)
        if not url:
            where = f"of {delivery.target}" if delivery.target else "SLACK_WEBHOOK_URL"
            return Outcome(False, permanent=True, error=f"There is no Slack address: {where} is not set.")
        try:
            answer = await self._client.post(url, json=message_of(event))
        except RefusedAddress as error:
            return Outcome(False, permanent=True, error=str(error))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return Outcome(False, error=f"{type(error).__name__}: {error}"[:300])
        return outcome_of(answer)

    async def close(self) -> None:
        await self._client.aclose()

    async def _url(self, target: str) -> str:
        if not target:
            return settings.SLACK_WEBHOOK_URL
        if self._of_rules is None:
            self._of_rules = await asyncio.to_thread(_addresses_of_rules)
        return self._of_rules.get(target, "")


def _addresses_of_rules() -> dict[str, str]:
    """Return the addresses by target. In a thread whose connection ends with it."""
    found = {}
    try:
        for rule_id, sealed in AlertRule.objects.values_list("pk", "sealed_slack_url"):
            if not sealed:
                continue
            try:
                found[slack_target(rule_id)] = unsealed_url(sealed)
            except CannotUnseal:
                continue  # SECRET_KEY was changed: it has to be entered again
    finally:
        connection.close()
    return found


def outcome_of(answer: httpx.Response) -> Outcome:
    if answer.is_success:
        return Outcome(True, answer.status_code, answer.text[:200])
    wait = answer.headers.get("retry-after", "")
    return Outcome(
        False,
        answer.status_code,
        answer.text[:200],
        retry_after=float(wait) if wait.isdecimal() else None,
        permanent=answer.status_code in _GONE,
    )


# -- the message ---------------------------------------------------------------------


def message_of(event: Event) -> dict[str, Any]:
    """Return the message: blocks, and the text that notifications show."""
    notice = notice_of(event)
    return {"text": _fitted(f"{notice.title}. {notice.message}"), "blocks": _blocks(notice)}


def escaped(text: str) -> str:
    """Return text that Slack shows as it is: these three begin a link, a mention or an entity."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _fitted(text: str, most: int = _MOST_TEXT) -> str:
    """Return text, escaped, of at most so many characters; no entity is cut in two."""
    text = text[:most]
    while len(escaped(text)) > most:
        text = text[:-8]
    return escaped(text)


def _blocks(notice: Notice) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = [
        {
            "type": "header",
            "text": {"type": "plain_text", "text": _fitted(notice.title, _MOST_TITLE), "emoji": False},
        },
        {"type": "section", "text": _text(f"{_MARKS[notice.level]} {_plain(notice.message)}")},
    ]
    facts = [_text(f"*{label}*\n{_plain(text)}") for label, text in notice.facts[:_MOST_FIELDS]]
    if facts:
        blocks.append({"type": "section", "fields": facts})
    blocks += [{"type": "section", "text": _text(_list(listed))} for listed in notice.lists if listed.rows]
    if notice.url:
        link = f"<{escaped(notice.url).replace('|', '%7C')}|Open in the admin>"
        blocks.append({"type": "context", "elements": [_text(f"{notice.level} · {link}")]})
    return blocks


def _text(text: str) -> dict[str, str]:
    return {"type": "mrkdwn", "text": text}


def _plain(text: str) -> str:
    """Return text in which nothing is bold, struck through or code: names have asterisks and underscores."""
    # A zero-width space beside them keeps Slack from reading them as marks.
    for mark in "*_~`":
        text = text.replace(mark, f"\u200b{mark}\u200b")
    return _fitted(text)


def _list(listed: Listed) -> str:
    lines = [
        f"• {_plain(name[:_MOST_NAME])}: *{spend}* ({change}), {calls}"
        for name, spend, change, calls in listed.rows
    ]
    return "\n".join([f"*{listed.title}*", *lines])
