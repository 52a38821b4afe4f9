"""The forms. Flask-WTF gives each its token against forgery."""

from __future__ import annotations

import typing as t

from flask_wtf import FlaskForm
from wtforms import StringField
from wtforms import TextAreaField
from wtforms.validators import DataRequired
from wtforms.validators import Length
from wtforms.validators import ValidationError


def tidy(text: str | None) -> str:
    """The text without space around it. Browsers send a line's end as two characters,
    and count it as one.
    """
    return (text or "").replace("\r\n", "\n").strip()


def one_line(text: str | None) -> str:
    """The text with single spaces alone."""
    return " ".join((text or "").split())


def printable(form: FlaskForm, field: t.Any) -> None:
    """Refuse what cannot be seen: two names that look the same should be the same."""
    if not field.data.isprintable():
        raise ValidationError("Please use visible characters only.")


def text_of(what: str, characters: int) -> list[t.Any]:
    """The rules for a text: it is there, and not too long."""
    return [
        DataRequired(f"{what} is missing."),
        Length(max=characters, message="Please use %(max)d characters at most."),
    ]


class LoginForm(FlaskForm):
    """A name is all that it takes."""

    name = StringField(
        "Your name", [*text_of("Your name", 30), printable], filters=[one_line]
    )


class ThreadForm(FlaskForm):
    """What a thread begins with."""

    title = StringField("Title", text_of("The title", 100), filters=[one_line])
    text = TextAreaField("What is it about?", text_of("The text", 2000), filters=[tidy])


class CommentForm(FlaskForm):
    """What is said in a thread."""

    text = TextAreaField("Your comment", text_of("Your comment", 2000), filters=[tidy])
