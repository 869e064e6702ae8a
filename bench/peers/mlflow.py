"""MLflow's gateway: one endpoint, one worker, no keys of its own, no accounts."""

import json
from pathlib import Path

from bench.load import Target
from bench.peers import Serving, pip_install

VERSION = "3.17.2"
WHAT = f"MLflow's gateway {VERSION}, one worker; it checks no key and keeps no accounts"


def install(folder: Path) -> None:
    pip_install(folder, f"mlflow[gateway]=={VERSION}")


def command(folder: Path, port: int, provider_url: str) -> Serving:
    config = folder / "config.yaml"  # JSON is YAML
    config.write_text(
        json.dumps(
            {
                "endpoints": [
                    {
                        "name": "gpt-4o-mini",
                        "endpoint_type": "llm/v1/chat",
                        "model": {
                            "provider": "openai",
                            "name": "gpt-4o-mini",
                            "config": {"openai_api_key": "sk-bench", "openai_api_base": provider_url},
                        },
                    }
                ]
            }
        )
    )
    serve = [folder / "venv/bin/mlflow", "gateway", "start", "--config-path", config,
             "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]  # fmt: skip
    return Serving(serve, {"PATH": f"{folder}/venv/bin:/usr/local/bin:/usr/bin:/bin"})


def target(port: int, keys_path: Path, provider_url: str) -> Target:
    return Target(port, keys_path, headers=(("content-type", "application/json"),))
