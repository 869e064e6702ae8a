"""
What a call probably used, where the provider does not say.

Tokens per byte of a call's body and per delta of a stream are learned, model by
model, from the calls whose usage the provider did report; before the first one,
four bytes make a token and a delta is a token (four characters where deltas are
long). An estimate is only ever made from what was sent and seen.
"""

from billing.usage import Usage

_BYTES_PER_TOKEN = 4
_LONG_DELTA = 12  # characters; providers that send a token per delta stay below
_LEARNING_RATE = 0.1
_MAX_MODELS = 1000
DEFAULT_OUTPUT_TOKENS = 256  # what is expected of an answer when nothing is known


class ModelRates:
    """What was learned of one model."""

    __slots__ = ("output_tokens", "tokens_per_byte", "tokens_per_delta")

    def __init__(self) -> None:
        self.tokens_per_byte: float | None = None
        self.tokens_per_delta: float | None = None
        self.output_tokens: float | None = None


class Estimator:
    """Learns from calls and estimates others. One per web process; for the event loop alone."""

    def __init__(self) -> None:
        self._models: dict[str, ModelRates] = {}

    def learn(self, model: str, *, body_bytes: int, usage: Usage, deltas: int = 0) -> None:
        """Take note of a call whose usage the provider reported."""
        rates = self._models.get(model)
        if rates is None:
            if len(self._models) >= _MAX_MODELS:
                self._models.clear()
            rates = self._models[model] = ModelRates()
        output = usage.completion_tokens
        if body_bytes:
            rates.tokens_per_byte = _moved(rates.tokens_per_byte, usage.prompt_tokens / body_bytes)
        if deltas:
            rates.tokens_per_delta = _moved(rates.tokens_per_delta, output / deltas)
        rates.output_tokens = _moved(rates.output_tokens, output)

    def before(self, model: str, *, body_bytes: int, max_output_tokens: int | None) -> tuple[int, int]:
        """Return the (input, output) tokens that a call will probably use."""
        rates = self._models.get(model)
        typical = rates.output_tokens if rates and rates.output_tokens is not None else DEFAULT_OUTPUT_TOKENS
        output = min(typical, max_output_tokens) if max_output_tokens else typical
        return self._input(rates, body_bytes), max(1, round(output))

    def partial(self, model: str, *, body_bytes: int, seen: Usage, deltas: int, characters: int) -> Usage:
        """Return what a stream used that ended early.

        seen: what the provider had said by then; it is kept, and the output is never
        estimated below it.
        """
        rates = self._models.get(model)
        if rates is not None and rates.tokens_per_delta is not None:
            output = round(deltas * rates.tokens_per_delta)
        elif deltas and characters / deltas > _LONG_DELTA:
            output = round(characters / _BYTES_PER_TOKEN)
        else:
            output = deltas
        if seen.prompt_tokens:
            return seen._replace(output_text=max(seen.output_text, output))
        return Usage(input_uncached=self._input(rates, body_bytes), output_text=output)

    def whole(self, model: str, *, body_bytes: int, answer_bytes: int, is_text: bool) -> Usage:
        """Return what a complete answer used that came without usage."""
        output = max(1, answer_bytes // _BYTES_PER_TOKEN) if is_text else 0
        return Usage(input_uncached=self._input(self._models.get(model), body_bytes), output_text=output)

    @staticmethod
    def _input(rates: ModelRates | None, body_bytes: int) -> int:
        if rates is not None and rates.tokens_per_byte is not None:
            return max(1, round(body_bytes * rates.tokens_per_byte))
        return max(1, body_bytes // _BYTES_PER_TOKEN)


def _moved(old: float | None, new: float) -> float:
    return new if old is None else old + _LEARNING_RATE * (new - old)
