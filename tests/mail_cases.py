"""What the tests of mail share: a mail made of its parts, and the words that are read in one."""

from __future__ import annotations

from email.message import EmailMessage

from metabox.tasks.multitask.mail import read_mail

DATE = "Fri, 05 Jan 2007 10:00:00 +0200"


def made(text: str = "Hello there", **headers: str) -> bytes:
    message = EmailMessage()
    for name, value in {"Subject": "greetings", "Date": DATE, **headers}.items():
        message[name] = value
    message.set_content(text)
    return bytes(message)


def words(content: str | bytes) -> list[str]:
    return read_mail(content if isinstance(content, bytes) else content.encode()).words
