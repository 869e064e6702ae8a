"""
Install other people's clients and run them against a real gateway: `make interop`.

They are not dependencies of ours: each gets a virtual environment under `var/interop/`,
kept for the next run. Their pins need not agree with ours.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.provider.process import PROJECT_ROOT

HOME = PROJECT_ROOT / "var" / "interop"
MINUTES = 5


class Client(NamedTuple):
    name: str
    requirement: str
    script: str  # beside this file; called with the gateway's address and its master key


CLIENTS = (Client("LiteLLM's management client", "litellm>=1.80", "litellm_client.py"),)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make interop", description=__doc__)
    parser.add_argument("--home", type=Path, default=HOME, help="where the clients are installed")
    home = parser.parse_args().home

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    import django

    django.setup()
    from tests.gateway import GatewayProcess
    from tests.provider import ProviderProcess

    failed = []
    for client in CLIENTS:
        python = _installed(client, home)
        with ProviderProcess() as provider, GatewayProcess(provider=provider) as gateway:
            done = subprocess.run(
                [str(python), str(Path(__file__).with_name(client.script)), gateway.url, gateway.master_key,
                 f"{provider.url}/v1"],
                timeout=MINUTES * 60,
                # Its price map comes with it; it would wait for one from the network.
                env={"PATH": os.defpath, "HOME": str(home), "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
            )  # fmt: skip
            if done.returncode:
                failed.append(client.name)
                print(gateway.log_text()[-3000:], file=sys.stderr)
        print(f"{client.name}: {'FAILED' if client.name in failed else 'works'}", flush=True)
    return bool(failed)


def _installed(client: Client, home: Path) -> Path:
    """Return the interpreter of the client's environment, made where it is missing."""
    folder = home / Path(client.script).stem
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        print(f"installing {client.requirement} …", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-qq", client.requirement], check=True)
        (folder / "installed").touch()
    return python


if __name__ == "__main__":
    sys.exit(main())
