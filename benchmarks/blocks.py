"""Parts of pages that programs write: between ``<!-- NAME -->`` and ``<!-- end -->``, a line each."""

import re

_BLOCK = re.compile(r"^<!-- ([^\n]+) -->\n((?:(?!<!-- ).*\n)*)<!-- end -->$", re.MULTILINE)


def read(text: str) -> dict[str, str]:
    """What stands in each block of the page, by its name, from above."""
    return {found[1]: found[2] for found in _BLOCK.finditer(text)}


def filled(text: str, name: str, body: str) -> str:
    """The page with ``body``, lines, in its block ``name``; all else stays as it is.

    Raises:
        KeyError: the page has no such block.
    """
    if name not in read(text):
        raise KeyError(name)

    def replaced(found: re.Match[str]) -> str:
        return f"<!-- {name} -->\n{body.strip()}\n<!-- end -->" if found[1] == name else found[0]

    return _BLOCK.sub(replaced, text)
