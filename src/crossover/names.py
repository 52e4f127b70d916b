"""Names of models, tasks and classes that come from others, as text that a reader can tell apart."""

import unicodedata

INVISIBLE = ("Cc", "Cf", "Cs")
"""Unicode's control, format and surrogate characters: nobody could tell apart two names that differ in them alone."""


def readable(name: str) -> str:
    """Return a name in composed characters (NFC), with single blanks and without characters that cannot be seen."""
    seen = (c for c in unicodedata.normalize("NFC", name) if c.isspace() or unicodedata.category(c) not in INVISIBLE)
    return " ".join("".join(seen).split())
