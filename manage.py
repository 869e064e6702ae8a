#!/usr/bin/env python
"""Django's command line, for this project's settings."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "spendproject.settings")
    from django.core.management import execute_from_command_line

    from spendproject.environment import BadSetting

    try:
        execute_from_command_line(sys.argv)
    except BadSetting as error:
        sys.exit(f"Nothing was done:\n{error}")


if __name__ == "__main__":
    main()
