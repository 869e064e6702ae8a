"""E-mail: an event as plain text and HTML, to one address, by Django's mail (EMAIL_URL)."""

import asyncio
import smtplib

from django.conf import settings
from django.core.mail import EmailMultiAlternatives, get_connection
from django.template.loader import render_to_string

from billing.models import Delivery, Event
from billing.sinks.base import Outcome
from billing.sinks.notice import notice_of
from customers.text import clean_line

_MOST_SUBJECT = 200
_PERMANENT = range(500, 600)  # of SMTP: 4xx may be tried again


class EmailSink:
    """Sends mails, each by a thread: the mail server may be slow."""

    channel = "email"

    async def send(self, delivery: Delivery, event: Event) -> Outcome:
        if not settings.EMAIL_IS_CONFIGURED:
            return Outcome(False, permanent=True, error="There is no mail server: set EMAIL_URL.")
        return await asyncio.to_thread(_send, mail_of(event, delivery.target))

    async def close(self) -> None:
        """Nothing is kept open."""


def mail_of(event: Event, address: str) -> EmailMultiAlternatives:
    notice = notice_of(event)
    context = {"notice": notice, "gateway_url": settings.PUBLIC_URL}
    mail = EmailMultiAlternatives(
        subject=clean_line(f"[Spend gateway] {notice.title}", _MOST_SUBJECT),
        body=render_to_string("email/notice.txt", context),
        to=[address],
        # One event, one mail: a server that is told twice can tell them apart.
        headers={
            "Message-ID": f"<{event.wire_id}.{_number(address)}@spend-gateway>",
            "Auto-Submitted": "auto-generated",
        },
    )
    mail.attach_alternative(render_to_string("email/notice.html", context), "text/html")
    return mail


def _number(address: str) -> str:
    return address.encode().hex()[:40]


def _send(mail: EmailMultiAlternatives) -> Outcome:
    try:
        mail.connection = get_connection(timeout=settings.EMAIL_TIMEOUT)
        mail.send()
    except smtplib.SMTPRecipientsRefused as error:
        code, answer = next(iter(error.recipients.values()))
        return Outcome(False, code, answer.decode("utf-8", "replace")[:200], permanent=code in _PERMANENT)
    except smtplib.SMTPResponseException as error:
        # A wrong password is put right by staff: the mail is worth another try.
        said = error.smtp_error
        text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
        return Outcome(False, error.smtp_code, text[:200])
    except (OSError, smtplib.SMTPException) as error:
        return Outcome(False, error=f"{type(error).__name__}: {error}"[:300])
    return Outcome(True)
