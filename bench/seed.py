"""
Fill the gateway's fresh database: `python -m bench.seed KEYS STREAM_URL`, in the gateway's environment.

Ten teams with ten keys each, whose secrets go to the file KEYS, a line each; a second
upstream at STREAM_URL that serves the model `bench-stream`, priced as gpt-4o-mini.
Customers come to be with their first calls.
"""

import os
import sys
from pathlib import Path

TEAMS = 10
KEYS_A_TEAM = 10
STREAM_MODEL = "bench-stream"
PRICED_MODEL = "gpt-4o-mini"


def seed(keys_path: Path, stream_url: str) -> None:
    from customers.models import Team
    from customers.services import create_key
    from proxy.models import Deployment, Upstream

    secrets = []
    for number in range(TEAMS):
        team = Team.objects.create(alias=f"bench {number}")
        secrets += [create_key(team=team)[1] for _ in range(KEYS_A_TEAM)]
    keys_path.write_text("\n".join(secrets) + "\n")
    upstream = Upstream.objects.create(
        name="bench-stream", provider="openai", openai_base_url=stream_url, credential="sk-bench"
    )
    Deployment.objects.create(model_name=STREAM_MODEL, upstream=upstream, upstream_model=PRICED_MODEL)


if __name__ == "__main__":
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "spendproject.settings")
    django.setup()
    seed(Path(sys.argv[1]), sys.argv[2])
