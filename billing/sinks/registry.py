"""All sinks, by channel. A new channel is a module beside this one and a line here."""

from collections.abc import Mapping

from billing.sinks.base import Sink
from billing.sinks.email import EmailSink
from billing.sinks.slack import SlackSink
from billing.sinks.webhook import WebhookSink


def make_sinks() -> Mapping[str, Sink]:
    """Return one sink per channel, for one run of the deliverer. Call it in that run's event loop."""
    sinks: list[Sink] = [WebhookSink(), SlackSink(), EmailSink()]
    return {sink.channel: sink for sink in sinks}
