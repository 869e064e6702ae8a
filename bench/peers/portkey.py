"""Portkey's gateway on Node: where to call is in each call's headers; no keys of its own, no accounts."""

import shutil
from pathlib import Path

from bench.load import Target
from bench.peers import Serving, run

VERSION = "1.15.2"
WHAT = f"Portkey's gateway {VERSION} on Node, one process, no console; it checks no key and keeps no accounts"


def install(folder: Path) -> None:
    if shutil.which("npm") is None:
        raise RuntimeError("npm is not installed")
    package = f"@portkey-ai/gateway@{VERSION}"
    run(
        ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", folder, package], folder
    )


def command(folder: Path, port: int, provider_url: str) -> Serving:
    script = folder / "node_modules/@portkey-ai/gateway/build/start-server.js"
    environment = {"NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost"}
    return Serving(["node", script, f"--port={port}", "--headless"], environment)


def target(port: int, keys_path: Path, provider_url: str) -> Target:
    headers = (
        ("content-type", "application/json"),
        ("authorization", "Bearer sk-bench"),
        ("x-portkey-provider", "openai"),
        ("x-portkey-custom-host", provider_url),
    )
    return Target(port, keys_path, headers=headers)
