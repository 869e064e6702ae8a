"""Made-up calls for trying out: `manage.py seed_demo`."""
