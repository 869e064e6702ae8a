"""LiteLLM's proxy: one model, a master key, no database, nothing logged, one worker."""

import json
from pathlib import Path

from bench.load import Target
from bench.peers import Serving, pip_install

VERSION = "1.106.2"
WHAT = (
    f"LiteLLM's proxy {VERSION}, one worker, uvloop, master key, no database (accounting off), "
    "production mode, logging at ERROR, telemetry and callbacks off"
)
_KEY = "sk-bench-master"


def install(folder: Path) -> None:
    pip_install(folder, f"litellm[proxy]=={VERSION}")


def command(folder: Path, port: int, provider_url: str) -> Serving:
    config = folder / "config.json"  # JSON is YAML
    config.write_text(
        json.dumps(
            {
                "model_list": [
                    {
                        "model_name": "gpt-4o-mini",
                        "litellm_params": {
                            "model": "openai/gpt-4o-mini",
                            "api_base": provider_url,
                            "api_key": "sk-bench",
                        },
                    }
                ],
                "litellm_settings": {
                    "telemetry": False,
                    "num_retries": 0,
                    "callbacks": [],
                    "turn_off_message_logging": True,
                    "set_verbose": False,
                },
                "router_settings": {"num_retries": 0, "enable_pre_call_checks": False},
                "general_settings": {"master_key": _KEY, "disable_spend_logs": True},
            }
        )
    )
    serve = [folder / "venv/bin/litellm", "--config", config, "--host", "127.0.0.1", "--port", str(port),
             "--num_workers", "1", "--telemetry", "False"]  # fmt: skip
    environment = {
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "NO_DOCS": "True",
        "DISABLE_ADMIN_UI": "True",
    }
    return Serving(serve, environment)


def target(port: int, keys_path: Path, provider_url: str) -> Target:
    headers = (("content-type", "application/json"), ("authorization", f"Bearer {_KEY}"))
    return Target(port, keys_path, headers=headers)
