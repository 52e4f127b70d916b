"""How do templates become pages? Every text is escaped, and a name that is missing is an error."""

from pathlib import Path

import jinja2


def templates() -> jinja2.Environment:
    """Return the templates of this package."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
