"""Measure and write the page: `python -m bench`; `--help` lists the options."""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from bench.load import Target
from bench.machine import CannotMeasure, Pinned, cores, describe
from bench.page import DIRECT, GATEWAY, NGINX, Results, bars, page
from bench.parties import (
    DATABASE_URL,
    PROJECT_ROOT,
    Gateway,
    Provider,
    Proxy,
    answers,
    clean_environment,
    free_port,
    need_tools,
    postgresql,
)
from bench.peers import NAMES, peer
from bench.rounds import Party, Run
from bench.sections import joined, split
from tests.provider import ProviderProcess

PAGE = PROJECT_ROOT / "docs" / "benchmarks.md"
BUSY = 0.5
KINDS = ("plain", "stream", "budget", "webhooks", "steps")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure the gateway beside nginx and the provider itself, and write docs/benchmarks.md.",
    )
    parser.add_argument("--rounds", type=int, default=5, help="each measures everyone in turn (5)")
    parser.add_argument("--seconds", type=float, default=6, help="of each measurement (6)")
    parser.add_argument("--quick", action="store_true", help="two rounds of two seconds: about a minute")
    parser.add_argument("--only", choices=KINDS, help="measure this alone; never writes the page")
    parser.add_argument(
        "--peers", default="", metavar="NAMES", help=f"other gateways beside it: {','.join(NAMES)}"
    )
    parser.add_argument(
        "--peers-folder", type=Path, metavar="DIR", help="keep their installations here, and use them again"
    )
    parser.add_argument("--no-write", action="store_true", help="print the page instead of writing it")
    found = parser.parse_args()
    found.peers = [name for name in found.peers.split(",") if name]
    if unknown := set(found.peers) - set(NAMES):
        parser.error(f"no such peer: {', '.join(sorted(unknown))}; known are {', '.join(NAMES)}")
    if found.quick:
        found.rounds, found.seconds = 2, 2.0
    if found.rounds < 1 or found.seconds < 1:
        parser.error("at least one round and one second are needed")
    return found


def main() -> int:
    wanted = options()
    # As with Ctrl-C: everything that was started is put away.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        results = measure(wanted)
    except CannotMeasure as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    text = page(results)
    if wanted.no_write or wanted.only:
        print("\n" + text)
    else:
        _, sections = split(PAGE.read_text(encoding="utf-8") if PAGE.exists() else "")
        PAGE.write_text(joined(text, sections), encoding="utf-8")
        print(f"\nWritten: {PAGE.relative_to(PROJECT_ROOT)}")
    for bar in bars(results):
        print(bar.line())
    return 0


def measure(wanted: argparse.Namespace) -> Results:
    """Run everything that is wanted. Raises: CannotMeasure."""
    results = Results(
        date=datetime.now(UTC).date().isoformat(),
        command=" ".join(["python -m bench", *_shown(sys.argv[1:])]),
        machine=describe(),
        database="none",
        rounds=wanted.rounds,
        seconds=wanted.seconds,
    )
    with tempfile.TemporaryDirectory(prefix="bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)  # nginx started by root drops its rights
        if wanted.only != "steps":
            _measure_rounds(wanted, results, folder, stack)
        if wanted.only in (None, "steps"):
            say("steps")
            results.steps = _steps(folder)
    return results


def _shown(arguments: list[str]) -> list[str]:
    """Return the arguments as the page shows them: without folders."""
    return [argument for argument in arguments if "/" not in argument and argument != "--peers-folder"]


def _measure_rounds(
    wanted: argparse.Namespace, results: Results, folder: Path, stack: contextlib.ExitStack
) -> None:
    need_tools()
    measured, load_core = cores()
    if os.getloadavg()[0] > BUSY:
        say(f"the machine is busy (load average {os.getloadavg()[0]:.1f}): the figures will be off")
    os.sched_setaffinity(0, {load_core})
    run = _start(wanted, results, folder, stack, measured, load_core)
    kinds = [wanted.only] if wanted.only else KINDS
    say("warming up")
    run.warm_up()
    for number in range(1, wanted.rounds + 1):
        if "plain" in kinds:
            say(f"round {number} of {wanted.rounds}: plain calls")
            run.plain_round()
        if "stream" in kinds:
            say(f"round {number} of {wanted.rounds}: streams")
            run.stream_round()
        if "budget" in kinds:
            say(f"round {number} of {wanted.rounds}: one hot budget")
            run.budget_round()
        if "webhooks" in kinds:
            say(f"round {number} of {wanted.rounds}: webhooks")
            run.webhook_round()
    say(f"{run.booked:,} plain calls booked, {run.served:,} served; "
        f"{run.streams_booked:,} streams booked, {run.streams_served:,} served")  # fmt: skip
    results.figures, results.threads = run.figures, run.threads
    results.booked, results.served = run.booked, run.served
    results.streams_booked, results.streams_served = run.streams_booked, run.streams_served


def _start(
    wanted: argparse.Namespace,
    results: Results,
    folder: Path,
    stack: contextlib.ExitStack,
    measured: int,
    load_core: int,
) -> Run:
    """Start everyone; `stack` puts them away."""
    database_url = postgresql(os.environ.get("BENCH_DATABASE_URL", DATABASE_URL))
    if database_url is None:
        say("PostgreSQL does not answer (BENCH_DATABASE_URL names another): booking into SQLite")
    say("starting provider, nginx and gateway")
    provider = Provider(folder, core=load_core)
    stack.callback(provider.stop)
    # On the load's core, as this process is now and its children will be.
    stream_provider = stack.enter_context(ProviderProcess())
    proxy = Proxy(folder, provider, core=measured)
    stack.callback(proxy.stop)
    gateway = Gateway(folder, provider, f"{stream_provider.url}/v1", core=measured, database_url=database_url)
    stack.callback(gateway.stop)
    results.database = gateway.database()
    if database_url is None:
        results.database += ": PostgreSQL did not answer, so these figures are not those the bars are about"
    keys = gateway.keys_path
    run = Run(
        provider=provider,
        stream_provider=stream_provider,
        parties=[
            Party(DIRECT, gateway.target_at(provider.port)),
            Party(NGINX, gateway.target_at(proxy.port), proxy.process),
            Party(GATEWAY, gateway.target, gateway.process, gateway),
        ],
        load_core=load_core,
        seconds=wanted.seconds,
    )
    for name in wanted.peers if wanted.only != "stream" else ():
        try:
            process, target = _start_peer(name, wanted, folder, measured, provider, keys)
        except (CannotMeasure, RuntimeError, OSError, subprocess.SubprocessError) as error:
            results.missing_peers[name] = str(error).strip().splitlines()[-1][:200]
            say(f"{name}: {error}")
            continue
        stack.callback(process.stop)
        results.peers[name] = peer(name).WHAT
        run.parties.append(Party(name, target, process, is_peer=True))
    return run


def _start_peer(
    name: str, wanted: argparse.Namespace, folder: Path, core: int, provider: Provider, keys: Path
) -> tuple[Pinned, Target]:
    """Install and start a peer. Raises: what tells why it cannot be measured."""
    module = peer(name)
    home = (wanted.peers_folder or folder).resolve() / name
    if not (home / "installed").exists():
        say(f"installing {name}")
        home.mkdir(parents=True, exist_ok=True)
        module.install(home)
        (home / "installed").touch()
    say(f"starting {name}")
    port = free_port()
    provider_url = f"http://127.0.0.1:{provider.port}/v1"
    serving = module.command(home, port, provider_url)
    process = Pinned(
        serving.command, core=core, log=folder / f"{name}.log", folder=home,
        environment={**clean_environment(), **serving.environment},
    )  # fmt: skip
    target = module.target(port, keys, provider_url)
    try:
        process.wait_until(lambda: answers(f"http://127.0.0.1:{port}/"), seconds=180)
        target.try_once()
    except BaseException:
        process.stop()
        raise
    return process, target


def _steps(folder: Path) -> list[tuple[str, float]]:
    environment = {
        **clean_environment(),
        "ENV_FILE": os.devnull,
        "VAR_DIR": str(folder / "steps"),
        "MASTER_KEY": "sk-master-of-this-bench",
        "SECRET_KEY": "for-this-bench-only-" + "x" * 40,
    }
    done = subprocess.run(
        [sys.executable, "-m", "bench.steps"],
        cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise CannotMeasure(f"bench.steps failed:\n{done.stderr}")
    return [(name, value) for name, value in json.loads(done.stdout)]


def say(message: str) -> None:
    print(f"bench: {message}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
