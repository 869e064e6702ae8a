"""
Sections of `docs/benchmarks.md` that are written by other benches than `make bench`, and survive it.

A section begins with its heading and ends where the next one of these, or the page, ends.
"""

from pathlib import Path

REPORTS = "## Reports and pages with ten million calls"
HEADINGS = (REPORTS,)


def put(page: Path, heading: str, text: str) -> None:
    """Write a section, in place of the one that the page has."""
    known = page.read_text(encoding="utf-8") if page.exists() else ""
    main, sections = split(known)
    sections[heading] = text
    page.write_text(joined(main, sections), encoding="utf-8")


def split(text: str) -> tuple[str, dict[str, str]]:
    """Return a page without these sections, and the sections by heading."""
    sections: dict[str, str] = {}
    for heading in HEADINGS:
        before, found, rest = text.partition(f"\n{heading}\n")
        if found:
            ends = [at for other in HEADINGS if (at := rest.find(f"\n{other}\n")) >= 0]
            end = min(ends, default=len(rest))
            sections[heading], text = rest[:end].strip() + "\n", before + rest[end:]
    return text.rstrip() + "\n", sections


def joined(main: str, sections: dict[str, str]) -> str:
    """Return the page with its sections behind."""
    behind = [f"\n{heading}\n\n{sections[heading]}" for heading in HEADINGS if heading in sections]
    return main + "".join(behind)
