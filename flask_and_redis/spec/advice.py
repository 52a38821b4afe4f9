"""What to write instead of a value that is likely to be a mistake. No message quotes
the value.
"""

from __future__ import annotations

import re

from .classes import name_of

# A part of a template that nothing has filled in: ${HOST}, $(HOST), $HOST, <host>,
# {{ host }}, {host}, %(host)s. The lengths keep the search linear.
_PLACEHOLDER = re.compile(
    r"\$\{[^{}]{1,99}\}|\$\([^()]{1,99}\)|\$\w+|<[^<>]{1,99}>|\{\{[^{}]{1,99}\}\}"
    r"|\{\w{1,99}\}|%\(\w{1,99}\)s"
)

#: What is wrong with text that begins with a quote.
QUOTED = "starts with a quote: remove the quotes around it."

#: What is wrong with text that has a placeholder.
UNREPLACED = "has a placeholder that was not replaced."


def explain_type(value: object, *, wants_text: bool) -> str:
    """A sentence that tells the type of a value, and nothing if it is text.

    :param value: The value.
    :param wants_text: Whether text would be right.
    """
    if isinstance(value, str):
        return ""

    cls = type(value)
    name = cls.__name__ if cls.__module__ == "builtins" else name_of(cls)

    if not wants_text:
        instead = ""
    elif isinstance(value, (bytes, bytearray)):
        instead = ": use value.decode()"
    elif hasattr(cls, "get_secret_value"):
        # pydantic's SecretStr, whose str() is asterisks.
        instead = ": use value.get_secret_value()"
    elif cls.__str__ is not object.__str__:
        # A URL object, for example.
        instead = ": use str(value)"
    else:
        instead = ""

    return f" It is of type {name}{instead}."


def has_placeholder(text: str) -> bool:
    """Whether any part of a text is a placeholder that was not replaced."""
    return _PLACEHOLDER.search(text) is not None


def is_placeholder(text: str) -> bool:
    """Whether a text is a placeholder and nothing else."""
    return _PLACEHOLDER.fullmatch(text.strip()) is not None


def is_quoted(text: str) -> bool:
    """Whether a text begins with a quote."""
    return text.strip().startswith(("'", '"'))
