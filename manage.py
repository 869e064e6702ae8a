#!/usr/bin/env python
"""Django's command line, for this project's settings."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "spendproject.settings")
    from django.core.management import execute_from_command_line

    from customers.actors import Actor, acting
    from spendproject.environment import BadSetting

    # What a command changes is signed with its name in the audit log.
    name = " ".join(["manage.py", *sys.argv[1:2]])
    try:
        with acting(Actor("command", name=name)):
            execute_from_command_line(sys.argv)
    except BadSetting as error:
        sys.exit(f"Nothing was done:\n{error}")


if __name__ == "__main__":
    main()
