"""
The hold line: a connection to PostgreSQL on which the event loop itself asks for holds.

    line.ask(parameters) ─► socket … readable ─► the rows, or what went wrong

A busy process spends more on handing a batch to a thread and back, the interpreter with
it, than PostgreSQL needs for it. So the usual case goes without: one prepared statement,
one batch at a time, libpq's own functions that never wait. All else is the desk's
(`hold_desk.py`): opening the line, and what this one statement cannot decide.
"""

import asyncio
from collections.abc import Callable

import psycopg
from django.db import DEFAULT_DB_ALIAS, connections
from psycopg import pq

from billing.budgets.hold_statement import ADMIT_TOGETHER, Answer
from billing.budgets.holds import make_impatient

_NAME = b"admit_together"
_BINARY = [1]


class LineBroken(Exception):
    """The connection is lost; whether the last statement was carried out nobody knows."""


class NotDecided(Exception):
    """PostgreSQL refused the statement, and did nothing."""


class HoldLine:
    """One connection. Opened in any thread, then used from the event loop alone."""

    def __init__(self) -> None:
        """Connect, and have the statement planned. Waits. Raises: any database error."""
        wrapper = connections.create_connection(DEFAULT_DB_ALIAS)
        wrapper.ensure_connection()
        # From here on without Django, which lets no event loop near its connections.
        self._connection: psycopg.Connection = wrapper.connection
        try:
            make_impatient(wrapper)
            self._pgconn = self._connection.pgconn
            prepared = self._pgconn.prepare(_NAME, ADMIT_TOGETHER.encode())
            if prepared.status != pq.ExecStatus.COMMAND_OK:
                raise psycopg.OperationalError(prepared.get_error_message())
            self._pgconn.nonblocking = 1
            self._socket = self._pgconn.socket  # libpq forgets it when the connection is lost
        except BaseException:
            self._connection.close()
            raise
        self._loop: asyncio.AbstractEventLoop | None = None
        self._answer: Callable[[Answer | Exception], None] | None = None
        self._is_writing = False
        self._result: pq.abc.PGresult | None = None
        self.is_open = True

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to read, from the event loop."""
        self._loop = loop
        loop.add_reader(self._socket, self._readable)

    def ask(self, parameters: list[bytes], answer: Callable[[Answer | Exception], None]) -> None:
        """Send the statement. `answer` is called once, later: with its rows, LineBroken or NotDecided."""
        self._answer = answer
        try:
            self._pgconn.send_query_prepared(_NAME, parameters, _BINARY * len(parameters))
            self._flush()
        except psycopg.Error as error:
            assert self._loop is not None
            self._loop.call_soon(self._answered, _broken(error))

    def close(self) -> None:
        """Hang up. Whoever waits for an answer gets none."""
        self._answer = None
        self._end()
        self._connection.close()

    def _end(self) -> None:
        self.is_open = False
        if self._loop is not None:
            self._stop_writing()
            self._loop.remove_reader(self._socket)
            self._loop = None

    def _flush(self) -> None:
        """Write what the socket takes; the rest when it takes more."""
        assert self._loop is not None
        if self._pgconn.flush():
            if not self._is_writing:
                self._is_writing = True
                self._loop.add_writer(self._socket, self._writable)
        else:
            self._stop_writing()

    def _stop_writing(self) -> None:
        if self._is_writing and self._loop is not None:
            self._is_writing = False
            self._loop.remove_writer(self._socket)

    def _writable(self) -> None:
        try:
            self._flush()
        except psycopg.Error as error:
            self._answered(_broken(error))

    def _readable(self) -> None:
        pgconn = self._pgconn
        try:
            pgconn.consume_input()
            while not pgconn.is_busy():
                result = pgconn.get_result()
                if result is None:
                    self._finished()
                    return
                self._result = result
        except psycopg.Error as error:
            self._answered(_broken(error))

    def _finished(self) -> None:
        """Nothing more is to come: of the statement, or, where none is under way, for ever."""
        result, self._result = self._result, None
        if self._pgconn.status != pq.ConnStatus.OK:
            self._answered(LineBroken("PostgreSQL has closed the connection."))
        elif result is None:
            return  # a notice, or a setting that has changed
        elif result.status == pq.ExecStatus.TUPLES_OK:
            self._answered(_rows(result))
        else:
            self._answered(NotDecided(result.get_error_message()))

    def _answered(self, answer: Answer | Exception) -> None:
        if isinstance(answer, LineBroken):
            self._end()
        waiting, self._answer = self._answer, None
        if waiting is not None:
            waiting(answer)


def _broken(error: Exception) -> LineBroken:
    return LineBroken(str(error))


def _rows(result: pq.abc.PGresult) -> Answer:
    def number(row: int, column: int) -> int:
        return int(result.get_value(row, column) or 0)

    return [
        (result.get_value(row, 0) == b"t", number(row, 1), number(row, 2), number(row, 3))
        for row in range(result.ntuples)
    ]
