"""WSGI entry: the admin and the API only. Proxied routes need `asgi.py`."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "spendproject.settings")
application = get_wsgi_application()
