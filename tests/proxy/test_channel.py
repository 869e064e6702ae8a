"""The way from a call task to its client: bounded, and indifferent to who leaves when."""

import asyncio

from django.test import SimpleTestCase

from proxy.channel import Channel
from tests.proxy.playing import steps


async def everything(channel: Channel) -> list[bytes]:
    taken = []
    while (chunk := await channel.get()) is not None:
        taken.append(chunk)
    return taken


class ReadingTests(SimpleTestCase):
    async def test_what_is_put_in_comes_out_in_order(self):
        channel = Channel(100)
        reader = asyncio.create_task(everything(channel))

        for chunk in (b"a", b"b", b"c"):
            channel.put(chunk)
            await steps(2)
        channel.end()

        self.assertEqual(await reader, [b"a", b"b", b"c"])

    async def test_a_reader_gets_everything_that_is_there_in_one_piece(self):
        channel = Channel(100)

        for chunk in (b"a", b"", b"b", b"c"):
            channel.put(chunk)
        channel.end()

        self.assertEqual(await everything(channel), [b"abc"])

    async def test_a_reader_waits_for_the_first_chunk_and_no_longer(self):
        channel = Channel(100)
        reader = asyncio.create_task(channel.get())
        await steps(5)
        was_waiting = not reader.done()

        channel.put(b"a")
        await steps(2)

        self.assertTrue(was_waiting)
        self.assertEqual(reader.result(), b"a")

    async def test_the_end_wakes_a_waiting_reader(self):
        channel = Channel(100)
        reader = asyncio.create_task(channel.get())
        await steps(2)

        channel.end()

        self.assertIsNone(await reader)
        self.assertIsNone(await channel.get())

    async def test_a_reader_cancelled_at_any_moment_loses_nothing(self):
        for count in range(4):
            channel = Channel(100)
            reader = asyncio.create_task(channel.get())
            await steps(count)
            channel.put(b"a")
            reader.cancel()
            [outcome] = await asyncio.gather(reader, return_exceptions=True)
            channel.put(b"b")
            channel.end()

            taken = [outcome] if isinstance(outcome, bytes) else []
            taken += await everything(channel)

            self.assertEqual(b"".join(taken), b"ab", f"cancelled after {count}")


class FullTests(SimpleTestCase):
    async def test_it_is_full_above_its_limit(self):
        channel = Channel(3)

        channel.put(b"abc")
        at = channel.is_full
        channel.put(b"d")

        self.assertEqual((at, channel.is_full), (False, True))

    async def test_a_writer_waits_until_the_client_has_taken_what_there_is(self):
        channel = Channel(3)
        channel.put(b"abcd")
        writer = asyncio.create_task(channel.wait_for_room(10))
        await steps(5)
        was_waiting = not writer.done()

        await channel.get()
        await writer

        self.assertTrue(was_waiting)
        self.assertEqual((channel.is_full, channel.is_gone), (False, False))

    async def test_a_client_that_takes_nothing_counts_as_gone(self):
        calls = []
        channel = Channel(3, on_gone=lambda: calls.append("gone"))
        channel.on_abandon(lambda: calls.append("abandoned"))
        channel.put(b"abcd")

        await channel.wait_for_room(0.01)

        self.assertTrue(channel.is_gone)
        self.assertEqual(calls, ["gone", "abandoned"])

    async def test_one_that_takes_just_in_time_does_not(self):
        channel = Channel(3)
        channel.put(b"abcd")
        writer = asyncio.create_task(channel.wait_for_room(0.2))
        await asyncio.sleep(0.1)

        await channel.get()
        await writer
        await asyncio.sleep(0.15)

        self.assertFalse(channel.is_gone)


class GoneTests(SimpleTestCase):
    async def test_nothing_is_kept_for_a_client_that_left(self):
        channel = Channel(3)
        channel.put(b"abcd")

        channel.client_left()
        channel.put(b"efgh")

        self.assertEqual((channel._size, list(channel._chunks), channel.is_full), (0, [], False))
        self.assertIsNone(await channel.get())

    async def test_it_is_told_once(self):
        told = []
        channel = Channel(3, on_gone=lambda: told.append(1))

        channel.client_left()
        channel.client_left()

        self.assertEqual(told, [1])

    async def test_a_writer_that_waits_goes_on_at_once(self):
        channel = Channel(3)
        channel.put(b"abcd")
        writer = asyncio.create_task(channel.wait_for_room(60))
        await steps(2)

        channel.client_left()

        async with asyncio.timeout(1):
            await writer

    async def test_a_reader_that_waits_is_let_go(self):
        channel = Channel(3)
        reader = asyncio.create_task(channel.get())
        await steps(2)

        channel.client_left()

        async with asyncio.timeout(1):
            self.assertIsNone(await reader)


class WriteThroughTests(SimpleTestCase):
    async def test_a_chunk_goes_to_a_waiting_reader_s_server_at_once(self):
        channel, written = Channel(100), []
        channel.write_through(lambda chunk: written.append(chunk) or True)
        reader = asyncio.ensure_future(channel.get())
        await asyncio.sleep(0)

        channel.put(b"one")
        channel.put(b"two")
        channel.end()

        self.assertEqual(written, [b"one", b"two"])
        self.assertIsNone(await reader)

    async def test_no_chunk_overtakes_one_that_is_being_sent(self):
        channel, written = Channel(100), []
        channel.put(b"one")
        channel.write_through(lambda chunk: written.append(chunk) or True)

        first = await channel.get()  # the reader is sending this, and not back yet
        channel.put(b"two")

        self.assertEqual((first, written), (b"one", []))
        self.assertEqual(await channel.get(), b"two")

    async def test_what_the_server_does_not_take_waits_in_the_queue(self):
        channel = Channel(100)
        channel.write_through(lambda chunk: False)
        reader = asyncio.ensure_future(channel.get())
        await asyncio.sleep(0)

        channel.put(b"one")

        self.assertEqual(await reader, b"one")
