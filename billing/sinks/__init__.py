"""Sinks: by which channel an event reaches somebody. One module each, behind one interface (`base.py`)."""
