"""The benchmarks start and their page is written; what they measure is nobody's promise here."""

import subprocess
import sys

from django.test import SimpleTestCase

from bench.load import read_wrk
from bench.machine import CannotMeasure
from bench.page import Results, bars, page, spread
from bench.rounds import refuse_growth
from tests.provider.process import PROJECT_ROOT

WRK_OUTPUT = """\
Running 6s test @ http://127.0.0.1:4000
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    19.02ms    2.17ms  60.11ms   93.51%
    Req/Sec     3.38k   243.15     3.62k    88.33%
  Latency Distribution
     50%  950.00us
     75%   19.20ms
     90%   20.06ms
     99%   29.11ms
  20194 requests in 6.00s, 26.35MB read
  Socket errors: connect 0, read 2, write 0, timeout 1
  Non-2xx or 3xx responses: 4
Requests/sec:   3364.19
Transfer/sec:      4.39MB
"""


def made_up_results() -> Results:
    return Results(
        date="2026-01-02",
        command="python -m bench",
        machine=[("CPU", "a made-up one, 2 cores")],
        database="PostgreSQL 15.1",
        rounds=3,
        seconds=6,
        figures={
            "direct": {"rate": [60_000] * 3, "p50_ms": [0.03] * 3, "first_byte_ms": [0.5, 0.5, 0.5]},
            "nginx": {"rate": [50_000, 40_000, 50_000], "cpu_ms": [0.02] * 3, "p50_ms": [0.06] * 3},
            "gateway": {
                "rate": [4_000, 4_000, 5_000],
                "cpu_ms": [0.25, 0.31, 0.35],
                "p50_ms": [0.5] * 3,
                "open_rate": [2_800] * 3,
                "stream_cpu_ms": [1.25] * 3,
                "first_byte_ms": [1.0, 1.1, 1.2],
            },
        },
        threads={"main": [0.2] * 3, "recorder": [0.03] * 3, "lookup_0": [0.01] * 3, "lookup_1": [0.02] * 3},
        steps=[("authenticate", 3.25)],
        missing_peers={"portkey": "npm is not installed"},
    )


class PageTests(SimpleTestCase):
    def test_ratios_are_made_round_by_round(self):
        rate, cpu, *_ = bars(made_up_results())

        self.assertEqual(list(rate.values), [100 * 4 / 50, 100 * 4 / 40, 100 * 5 / 50])
        self.assertTrue(rate.is_met)
        self.assertFalse(cpu.is_met)

    def test_the_page_says_what_was_met_and_what_was_not(self):
        text = page(made_up_results())

        self.assertIn("| 10 % (8\N{EN DASH}10) | met |", text)
        self.assertIn("| CPU per call | ≤ 0.3 ms | 0.31 ms (0.25\N{EN DASH}0.35) | **not met** |", text)
        self.assertIn("| key look-ups | 0.03 |", text)
        self.assertIn("| authenticate | 3.25 |", text)
        self.assertIn("npm is not installed", text)

    def test_what_was_not_measured_has_no_section(self):
        results = made_up_results()
        results.figures, results.threads = {}, {}

        text = page(results)

        self.assertNotIn("## Plain calls", text)
        self.assertNotIn("## The bars", text)

    def test_figures_are_short(self):
        self.assertEqual(spread([52_912.3]), "52,912")
        self.assertEqual(spread([0.0184]), "0.018")
        self.assertEqual(spread([]), "\N{EN DASH}")


class ReadingTests(SimpleTestCase):
    def test_it_reads_what_wrk_prints(self):
        output = WRK_OUTPUT.replace("950.00us", "1.25ms")

        self.assertEqual(read_wrk(output), (20_194, 3364.19, 1.25, 2 + 1 + 4))
        self.assertAlmostEqual(read_wrk(WRK_OUTPUT).p50_ms, 0.95)

    def test_a_run_whose_backlog_grows_does_not_count(self):
        refuse_growth([300, 500, 200, 400, 300, 500], 0.3)

        with self.assertRaises(CannotMeasure):
            refuse_growth([100, 200, 300, 400, 500, 600], 0.3)
        with self.assertRaises(CannotMeasure):
            refuse_growth([300, 300, 300], 5.0)

    def test_help_needs_no_tool_and_no_database(self):
        done = subprocess.run(
            [sys.executable, "-m", "bench", "--help"], cwd=PROJECT_ROOT, capture_output=True, text=True
        )

        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("--peers", done.stdout)
