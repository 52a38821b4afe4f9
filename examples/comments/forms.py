"""The forms. Flask-WTF adds a CSRF token to each."""

from __future__ import annotations

import typing as t

from flask_wtf import FlaskForm
from wtforms import StringField
from wtforms import TextAreaField
from wtforms.validators import DataRequired
from wtforms.validators import Length
from wtforms.validators import ValidationError


def tidy(text: str | None) -> str:
    """Strip the text and normalize its line breaks. Browsers send a line break as two
    characters, but count it as one.
    """
    return (text or "").replace("\r\n", "\n").strip()


def one_line(text: str | None) -> str:
    """Join the words of the text with single spaces."""
    return " ".join((text or "").split())


def printable(form: FlaskForm, field: t.Any) -> None:
    """Refuse invisible characters: names that look the same must be the same."""
    if not field.data.isprintable():
        raise ValidationError("Please use only visible characters.")


def text_of(what: str, characters: int) -> list[t.Any]:
    """Return the validators for a text: it is required, and its length is limited."""
    return [
        DataRequired(f"{what} is missing."),
        Length(max=characters, message="Please use at most %(max)d characters."),
    ]


class LoginForm(FlaskForm):
    """The login form. It has only a name."""

    name = StringField(
        "Your name", [*text_of("Your name", 30), printable], filters=[one_line]
    )


class ThreadForm(FlaskForm):
    """The form that starts a thread."""

    title = StringField("Title", text_of("The title", 100), filters=[one_line])
    text = TextAreaField("Text", text_of("The text", 2000), filters=[tidy])


class CommentForm(FlaskForm):
    """The form that adds a comment."""

    text = TextAreaField("Your comment", text_of("Your comment", 2000), filters=[tidy])
