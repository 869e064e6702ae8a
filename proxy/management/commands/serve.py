"""Run the web server: `manage.py serve`."""

import os
import sys
from typing import Any

import uvicorn
from django.conf import settings
from django.core.checks import ERROR, run_checks
from django.core.management.base import BaseCommand, CommandError, CommandParser


class Command(BaseCommand):
    help = "Serve the gateway, the admin and the API over HTTP."
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default=settings.HOST)
        parser.add_argument("--port", type=int, default=settings.PORT)
        parser.add_argument(
            "--workers", type=int, default=settings.WEB_WORKERS, help="web processes (PostgreSQL)"
        )

    def handle(self, *args: Any, host: str, port: int, workers: int, **options: Any) -> None:
        settings.WEB_WORKERS = workers
        os.environ["WEB_WORKERS"] = str(workers)  # the workers read their settings again
        problems = [
            problem
            for problem in run_checks(include_deployment_checks=True, databases=["default"])
            if problem.level >= ERROR
        ]
        if problems:
            raise CommandError("not started:\n" + "\n".join(str(problem) for problem in problems))
        uvicorn.run(
            "spendproject.asgi:application",
            host=host,
            port=port,
            workers=workers if workers > 1 else None,
            loop="uvloop" if sys.platform != "win32" else "auto",
            http="httptools",
            ws="none",
            lifespan="on",
            access_log=False,
            server_header=False,
            log_config=None,
            proxy_headers=False,
            backlog=4096,
            timeout_keep_alive=75,
            # Calls are cut after DRAIN_SECONDS (`Gateway.begin_drain`); this is when their
            # clients are, who by then have read why, or do not read at all (C7).
            timeout_graceful_shutdown=int(settings.DRAIN_SECONDS) + 3,
        )
