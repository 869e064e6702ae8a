"""The hold desk and its line: who decides an ask, and what becomes of it when the line breaks."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from typing import Any
from unittest import mock, skipUnless

import msgspec
import psycopg
from django.db import connection
from django.test import TransactionTestCase

from billing.booking.records import Opened
from billing.booking.write_turn import WriteTurn
from billing.budgets import hold_desk, holds
from billing.budgets.hold_desk import HoldDesk, HoldsAway
from billing.budgets.hold_line import HoldLine
from billing.budgets.holds import Granted, Refused
from billing.budgets.periods import start_afresh
from tests.billing.budgets import JOURNAL, check_the_books, figures, july, make_ask, usd
from tests.billing.making import NOON, make_opened

on_postgresql = skipUnless(connection.vendor == "postgresql", "the line is libpq's")
NO_TIME = mock.patch.multiple(hold_desk, _LINE_SECONDS=0.0, _IDLE_SECONDS=0.01, _AWAY_SECONDS=0.0)


def ask_for(limit: str, amount_usd: str = "0.25", **options: Any) -> holds.Ask:
    return make_ask((july(), limit), amount_usd=amount_usd, **options)


def with_desk(scenario: Callable[[HoldDesk], Awaitable[None]]) -> None:
    """Run a scenario in an event loop that has a desk."""

    async def run() -> None:
        desk = HoldDesk(JOURNAL, asyncio.get_running_loop(), WriteTurn())
        desk.start()
        try:
            await asyncio.wait_for(scenario(desk), timeout=30)
        finally:
            await asyncio.get_running_loop().run_in_executor(None, desk.stop)
            await asyncio.sleep(0)

    with NO_TIME:
        asyncio.run(run())


async def opened_line(desk: HoldDesk, limit: str = "100") -> HoldLine:
    """Have one call admitted, by the thread, and wait for the line that it then opens."""
    assert isinstance(await desk.admit(ask_for(limit)), Granted)
    while desk._line is None:
        await asyncio.sleep(0.005)
    return desk._line


def without_thread() -> Any:
    """Fail what the thread is asked for: only the line may decide."""
    return mock.patch.object(holds, "admit", side_effect=AssertionError("the thread was asked"))


async def _in_thread(work: Callable[[], None]) -> None:
    def run() -> None:
        try:
            work()
        finally:
            connection.close()

    await asyncio.get_running_loop().run_in_executor(None, run)


@contextlib.contextmanager
def locked_periods() -> Iterator[None]:
    """Have another connection hold the rows of all periods."""
    with psycopg.connect(**_connection()) as other:
        other.execute("SELECT 1 FROM billing_budgetperiod FOR UPDATE")
        yield
        other.rollback()


def _terminate(line: HoldLine) -> None:
    with psycopg.connect(**_connection()) as other:
        other.execute("SELECT pg_terminate_backend(%s)", [line._pgconn.backend_pid])


def _connection() -> dict[str, Any]:
    given = connection.settings_dict
    names = {"dbname": "NAME", "host": "HOST", "port": "PORT", "user": "USER", "password": "PASSWORD"}
    return {name: given[key] for name, key in names.items() if given[key]}


def _of_many_tags() -> Opened:
    """Return a call of some 30 kB."""
    return make_opened(customer_id="acme", tags=[f"{number:0500}" for number in range(60)])


class TestDesk(TransactionTestCase):
    def test_calls_at_once_are_admitted_as_far_as_the_budget_goes(self):
        async def scenario(desk: HoldDesk) -> None:
            await desk.admit(ask_for("2"))
            asks = [desk.admit(ask_for("2")) for _ in range(20)]
            decisions = await asyncio.gather(*asks)
            self.assertEqual(sum(isinstance(each, Granted) for each in decisions), 7)
            self.assertEqual(sum(isinstance(each, Refused) for each in decisions), 13)

        with_desk(scenario)
        self.assertEqual(figures(july()), usd("0", "2", "0"))
        check_the_books()


@on_postgresql
class TestLine(TransactionTestCase):
    def test_the_line_decides_what_fits(self):
        async def scenario(desk: HoldDesk) -> None:
            await opened_line(desk)
            with without_thread():
                alone = await desk.admit(ask_for("100"))
                together = await asyncio.gather(*(desk.admit(ask_for("100")) for _ in range(100)))
            self.assertEqual(alone, Granted(usd("0.25")[0], 0, (0,)))
            self.assertEqual({*together}, {alone})

        with_desk(scenario)
        self.assertEqual(figures(july()), usd("0", "25.5", "0"))
        check_the_books()

    def test_asks_that_keep_coming_go_together_and_nobody_waits_for_what_does_not_come(self):
        async def scenario(desk: HoldDesk) -> None:
            line = await opened_line(desk)
            sizes: list[int] = []
            original = desk._together

            def together(asks: list[holds.Ask]) -> Any:
                sizes.append(len(asks))
                return original(asks)

            async def one_after_the_other(count: int) -> list[asyncio.Task]:
                tasks = []
                for _ in range(count):
                    tasks.append(asyncio.create_task(desk.admit(ask_for("100"))))
                    await asyncio.sleep(0)  # a turn of the loop
                return tasks

            # Time alone would never have a batch go.
            with (
                mock.patch.object(desk, "_together", together),
                mock.patch.object(hold_desk, "_GATHER_SECONDS", 1e9),
            ):
                await asyncio.gather(*(desk.admit(ask_for("100")) for _ in range(10)))
                await asyncio.gather(*await one_after_the_other(20))
            self.assertEqual(sizes, [10, 20])
            self.assertTrue(line.is_open)

        with_desk(scenario)
        check_the_books()

    def test_a_call_that_cannot_be_written_takes_no_other_with_it(self):
        async def scenario(desk: HoldDesk) -> None:
            await opened_line(desk)
            asks = [ask_for("100") for _ in range(4)]
            asks[1] = msgspec.structs.replace(asks[1], amount_nano=-(2**70))
            decisions = await asyncio.gather(*map(desk.admit, asks), return_exceptions=True)
            self.assertEqual([type(each) for each in decisions], [Granted, HoldsAway, Granted, Granted])
            self.assertFalse(desk._is_recovering)
            with without_thread():  # and the line goes on
                self.assertIsInstance(await desk.admit(ask_for("100")), Granted)

        with_desk(scenario)
        self.assertEqual(figures(july()), usd("0", "1.25", "0"))
        check_the_books()

    def test_what_does_not_fit_the_thread_refuses_by_name(self):
        async def scenario(desk: HoldDesk) -> None:
            await opened_line(desk, "1")
            decision = await desk.admit(ask_for("1", "0.80"))
            self.assertEqual((type(decision), decision.held_nano), (Refused, usd("0.25")[0]))
            with without_thread():  # and the line goes on
                self.assertIsInstance(await desk.admit(ask_for("1", "0.75")), Granted)

        with_desk(scenario)
        self.assertEqual(figures(july()), usd("0", "1", "0"))

    def test_a_period_that_was_started_afresh_is_looked_up_again(self):
        async def scenario(desk: HoldDesk) -> None:
            await opened_line(desk)
            await _in_thread(lambda: start_afresh([july()], at=NOON - timedelta(hours=1)))
            self.assertIsInstance(await desk.admit(ask_for("100")), Granted)

        with_desk(scenario)
        self.assertEqual(figures(july(), generation=1), usd("0", "0.25", "0"))

    def test_a_call_that_no_longer_waits_gives_its_hold_back(self):
        async def scenario(desk: HoldDesk) -> None:
            await opened_line(desk)
            waiting = asyncio.ensure_future(desk.admit(ask_for("100")))
            while not desk._on_line:
                await asyncio.sleep(0)
            waiting.cancel()
            while desk._on_line or desk._to_release:
                await asyncio.sleep(0.005)

        with_desk(scenario)
        self.assertEqual(figures(july()), usd("0", "0.25", "0"))

    def test_a_line_that_breaks_while_it_decides_lets_nobody_wait(self):
        async def scenario(desk: HoldDesk) -> None:
            line = await opened_line(desk)
            with locked_periods():
                waiting = asyncio.ensure_future(desk.admit(ask_for("100")))
                while not desk._on_line:
                    await asyncio.sleep(0)
                await _in_thread(lambda: _terminate(line))
                with self.assertRaises(HoldsAway):
                    await waiting
            # The next is admitted: leases are renewed, what the lost batch may hold is given back.
            self.assertIsInstance(await desk.admit(ask_for("100")), Granted)
            while desk._line is None or desk._to_release:
                await asyncio.sleep(0.005)
            self.assertIsNot(desk._line, line)

        with_desk(scenario)
        self.assertEqual(figures(july()), usd("0", "0.5", "0"))
        check_the_books()

    def test_a_line_that_broke_while_idle_costs_no_call(self):
        async def scenario(desk: HoldDesk) -> None:
            line = await opened_line(desk)
            await _in_thread(lambda: _terminate(line))
            while line.is_open:
                await asyncio.sleep(0.005)
            self.assertIsInstance(await desk.admit(ask_for("100")), Granted)

        with_desk(scenario)

    def test_while_the_desk_recovers_the_line_admits_nobody(self):
        async def scenario(desk: HoldDesk) -> None:
            await opened_line(desk)
            desk._is_drained = lambda: False
            desk._is_recovering = True
            with self.assertRaises(HoldsAway):
                await desk.admit(ask_for("100"))
            desk._is_drained = lambda: True
            self.assertIsInstance(await desk.admit(ask_for("100")), Granted)

        with_desk(scenario)

    def test_nobody_waits_for_a_database_that_hangs(self):
        async def scenario(desk: HoldDesk) -> None:
            line = await opened_line(desk)
            asyncio.get_running_loop().remove_reader(line._socket)  # no answer is ever read
            with mock.patch.object(hold_desk, "_HANGS_SECONDS", 0.0):
                waiting = asyncio.ensure_future(desk.admit(ask_for("100")))
                while not desk._on_line:
                    await asyncio.sleep(0)
                desk.sweep()
                with self.assertRaises(HoldsAway):
                    await waiting
            self.assertIsNone(desk._line)
            self.assertIsInstance(await desk.admit(ask_for("100")), Granted)
            while desk._to_release:
                await asyncio.sleep(0.005)

        with_desk(scenario)
        self.assertEqual(figures(july()), usd("0", "0.5", "0"))

    def test_a_statement_larger_than_the_socket_s_buffer_arrives_whole(self):
        async def scenario(desk: HoldDesk) -> None:
            await opened_line(desk)
            large = [ask_for("100", opened=_of_many_tags()) for _ in range(60)]
            with without_thread():
                decisions = await asyncio.gather(*map(desk.admit, large))
            self.assertEqual({type(each) for each in decisions}, {Granted})

        with_desk(scenario)
        check_the_books()
