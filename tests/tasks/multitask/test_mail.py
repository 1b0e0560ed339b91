"""Mail as strangers write it: its words and its date, or a refusal in one pass."""

from __future__ import annotations

import contextlib
import time
from datetime import datetime, timezone
from email.message import EmailMessage

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mail_cases import made, words

from metabox.tasks.multitask import mail
from metabox.tasks.multitask.mail import Mail, read_mail


def test_a_mail_is_the_words_of_its_subject_and_text_and_its_date() -> None:
    expected = Mail(["greetings", "hello", "there", "50", "off"], datetime(2007, 1, 5, 8, tzinfo=timezone.utc))
    assert read_mail(made("Hello THERE, 50% off! a")) == expected


def test_a_date_that_is_missing_or_no_date_is_none_and_one_without_a_zone_is_in_utc() -> None:
    assert read_mail(b"Subject: x\n\ny").date is None
    assert read_mail(b"Date: soon\n\ny").date is None
    assert read_mail(b"Date: Fri, 99 Jan 2007 10:00:00 +0000\n\ny").date is None
    assert read_mail(b"Date: Fri, 05 Jan 2007 10:00:00\n\ny").date == datetime(2007, 1, 5, 10, tzinfo=timezone.utc)


@pytest.mark.parametrize("charset", ["utf-8", "latin-1", "utf-16", "koi8-r", "shift_jis"])
@pytest.mark.parametrize("encoding", ["base64", "quoted-printable"])
def test_every_transfer_encoding_and_character_set_gives_the_same_words(charset: str, encoding: str) -> None:
    word = {"koi8-r": "привет", "shift_jis": "こんにちは"}.get(charset, "grüße")
    message = EmailMessage()
    message["Subject"] = word
    message.set_content(word, charset=charset, cte=encoding)
    assert words(bytes(message)) == [word, word]


def test_a_character_set_that_is_unknown_or_wrong_still_gives_words() -> None:
    assert words("Content-Type: text/plain; charset=klingon\n\nbuy gr\u00fc\u00dfe".encode("latin-1")) == [
        "buy",
        "grüße",
    ]
    assert words(b"Content-Type: text/plain; charset=utf-8\n\nbuy \xff now") == ["buy", "now"]
    assert words(b"Subject: =?klingon?b?YnV5?= =?utf-8?b?A?=\n\nnow")[-1] == "now"


def test_of_several_parts_the_texts_are_read_and_attachments_are_not() -> None:
    message = EmailMessage()
    message["Subject"] = "offer"
    message.set_content("plain words")
    message.add_alternative("<p>marked up</p>", subtype="html")
    message.add_attachment("attached secret", filename="notes.txt")
    message.add_attachment(b"\0\1binary", maintype="application", subtype="octet-stream", filename="run.exe")
    assert words(bytes(message)) == ["offer", "plain", "words", "marked", "up"]


def test_a_forwarded_mail_within_a_mail_is_read_too() -> None:
    inner, outer = EmailMessage(), EmailMessage()
    inner.set_content("inner words")
    outer["Subject"] = "outer"
    outer.make_mixed()
    outer.attach(inner)
    assert words(bytes(outer)) == ["outer", "inner", "words"]


def test_html_is_what_a_reader_sees() -> None:
    page = (
        "<style>p {hidden: css}</style><script>var hidden = '<p>';</script><template>hidden</template>"
        "<p title='hidden'>free vi<b></b>ag<!-- hidden -->ra</p>pills<br>gr&uuml;&szlig;e <![weird[ rest"
    )
    got = words(f"Content-Type: text/html\n\n{page}".replace(" <![weird[ rest", ""))
    assert got == ["free", "viagra", "pills", "grüße"]
    assert "free" in words(f"Content-Type: text/html\n\n{page}")


@pytest.mark.parametrize(
    ("page", "seen"),
    [
        ("one<!-->two<!---->three<!-- four --", ["onetwothree"]),
        ("a < b, b > aa, 1<2 <3 love", ["aa", "love"]),
        ("<p title='>hidden' data-x=\">hidden\">seen</p >too", ["seen", "too"]),
        ("<p it's>seen</p>it's", ["seen", "it"]),
        ("<SCRIPT src=x/>hidden</script><style>hidden</styles></STYLE >seen", ["seen"]),
        ("<template><b>hidden</b></template>seen<template>hidden", ["seen"]),
        ("seen<p title='never closed>hidden <b>too", ["seen"]),
        ("&lt;b&gt;seen &#103;r&#x00fc;&szlig;e &amp &bogus; &#99999999;", ["seen", "grüße", "bogus", "99999999"]),
        ("</>seen</ hidden><?hidden ?>too<!doctype hidden>", ["seentoo"]),
    ],
)
def test_tags_end_where_html_says(page: str, seen: list[str]) -> None:
    assert [word for word in words(f"Content-Type: text/html\n\n{page}") if word != "bb"] == seen


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no mail"),
        (b"\x7fELF\0\0\0", "no mail"),
        (b"just some words", "no mail"),
        (b"Subject: x\n\0\n\nwords", "no mail"),
    ],
)
def test_what_is_no_mail_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_mail(content)


def test_a_mail_that_is_too_large_too_deep_or_in_too_many_parts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    deep = [f'Content-Type: multipart/mixed; boundary="b{i}"\n\n--b{i}\n' for i in range(995)]
    for depth in (101, 995):  # the second is deeper than Python's own limit
        with pytest.raises(ValueError, match="nested too deeply"):
            words("".join(deep[:depth]))
    assert words("".join(deep[:90]) + "\nfive") == ["five"]
    wide = 'Content-Type: multipart/mixed; boundary="b"\n\n' + "--b\n\nx\n" * 2000
    with pytest.raises(ValueError, match="more than 1000 parts"):
        words(wide)
    monkeypatch.setattr(mail, "MOST_BYTES", 1 << 20)
    with pytest.raises(ValueError, match="more than 1 MiB"):
        read_mail(b"Subject: x\n\n" + b"y" * (2 << 20))
    monkeypatch.setattr(mail, "MOST_LETTERS", 8)
    assert words("Subject: x\n\nfive six seven") == ["five", "six"]


MOST = 24 << 20
HTML, TEXT = b"Subject: x\nContent-Type: text/html\n\n", b"Subject: x\n\n"

SLOW = {
    **{
        repr(piece): HTML + piece * (MOST // len(piece)) for piece in (b"<!--", b"</a ", b'<a b="', b"<![", b"<script>")
    },
    "a number of a million digits": HTML + b"&#" + b"9" * (1 << 20),
    "a subject of encoded words": b"Subject: " + b"=?utf-8?b?YnV5?= " * 100_000 + TEXT,
    "a subject of encoded lines": b"Subject: " + b"=?utf-8?b?YnV5?=\n " * 100_000 + TEXT,
    "options of a type": b"Content-Type: multipart/mixed" + b";" * MOST + b"\n\nx",
    "quoted options": b'Content-Type: multipart/mixed; a="' + b";" * (1 << 20) + b"\n\nx",
    "numbered options": b"Content-Type: text/plain" + b"".join(b";a*%d=x" % i for i in range(100_000)) + b"\n\nx",
    "lines": TEXT + b"\n" * MOST,
    "lines of old": TEXT + b"\r" * MOST,
    "headers": b"a:b\n" * 4_000_000 + b"\nx",
    "lines in nested parts": b"".join(
        b'Content-Type: multipart/mixed; boundary="b%d"\n\n--b%d\n' % (i, i) for i in range(200)
    )
    + b"\n" * 400_000,
    "blocks of a report": b"Content-Type: message/delivery-status\n\n" + b"\n" * 3_000_000,
    "punycode": b"Content-Type: text/plain; charset=punycode\n\na-" + b"z" * (1 << 20),
}


@pytest.mark.parametrize("case", SLOW)
def test_mail_that_slows_readers_down_is_read_in_one_pass_or_refused(case: str) -> None:
    start = time.process_time()  # of this process alone, whatever else the machine does
    with contextlib.suppress(ValueError):
        read_mail(SLOW[case])
    assert time.process_time() - start < 20, "each takes less than one second, and minutes if it is read in many"


PIECES = (
    *(
        b"Subject: ",
        b"Date: ",
        b"Content-Type: ",
        b"text/html",
        b"text/plain; charset=",
        b"utf-7",
        b"idna",
        b"\n",
        b"\n\n",
    ),
    *(
        b"Content-Transfer-Encoding: base64\n",
        b"multipart/mixed; boundary=b\n",
        b"--b\n",
        b"<!--",
        b"=?utf-8?b?",
        b"?=",
    ),
    *(b"<![", b"&#x110000;"),
)


@settings(max_examples=300)
@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=8), max_size=20))
def test_any_bytes_are_a_mail_or_refused(pieces: list[bytes]) -> None:
    try:
        assert all(word == word.lower() for word in read_mail(b"".join(pieces)).words)
    except ValueError as error:
        assert "mail" in str(error)  # noqa: PT017
