"""Hostile mail, lists, tables and graphs."""

from __future__ import annotations

import csv
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path

from hostile_arrays import read_pickles
from hostile_case import FEW, GOOD, HOSTILE, JPEG, PWNED, SPLITS, Calls, Case, encoded, put, zipped


def read_mail_folder(folder: Path) -> object:
    from metabox.tasks import MailFolder

    return MailFolder(str(folder / "mail"), features=16).spec


MAIL_HTML, MOST = b"Subject: x\nContent-Type: text/html\n\n", 12 << 20
MAILS: dict[str, tuple[Callable[[], bytes], str | None]] = {
    **{
        f"page of {piece.decode()}": (lambda piece=piece: MAIL_HTML + piece * (MOST // len(piece)), None)
        for piece in (b"<!--", b"</a ", b"<a b='", b"<![", b"<script>", b"<style", b"<template>", b"&#", b"<", b"<?")
    },
    "number of many digits": (lambda: MAIL_HTML + b"&#" + b"9" * MOST, None),
    "subject of encoded words": (lambda: b"Subject: " + b"=?utf-8?b?YnV5?= " * 100_000 + b"\n\nx", None),
    "subject of encoded lines": (lambda: b"Subject: " + b"=?utf-8?b?YnV5?=\n " * 100_000 + b"\n\nx", None),
    "options": (lambda: b"Content-Type: multipart/mixed" + b";" * MOST + b"\n\nx", None),
    "options of every part": (
        lambda: (
            b"Content-Type: multipart/mixed; boundary=b\n\n"
            + (b'--b\nContent-Type: multipart/x; "' + b";" * 20_000 + b"\n\nx\n") * 300
        ),
        None,
    ),
    "numbered options": (
        lambda: b"Content-Type: text/plain" + b"".join(b";a*%d=x" % i for i in range(100_000)) + b"\n\nx",
        None,
    ),
    "lines": (lambda: b"Subject: x\n\n" + b"\n" * MOST, "more than mail has"),
    "headers": (lambda: b"a:b\n" * (MOST // 4) + b"\nx", "more than mail has"),
    "blocks of a report": (lambda: b"Content-Type: message/delivery-status\n\n" + b"\n" * 99_000, "1000 parts"),
    "nested parts": (
        lambda: b"".join(b'Content-Type: multipart/mixed; boundary="%d"\n\n--%d\n' % (i, i) for i in range(5000)),
        "1000 parts",
    ),
    "lines in nested parts": (
        lambda: (
            b"".join(b'Content-Type: multipart/mixed; boundary="%d"\n\n--%d\n' % (i, i) for i in range(500))
            + b"\n" * 400_000
        ),
        "more than mail has",
    ),
    "mail in mail": (lambda: b"Content-Type: message/rfc822\n\n" * 5000, "1000 parts"),
    "punycode": (lambda: b"Content-Type: text/plain; charset=punycode\n\na-" + b"z" * MOST, None),
    "much": (lambda: b"Subject: x\n\n" + b"x" * (30 << 20), "more than 25 MiB"),
    "no mail": (lambda: b"\x7fELF" + bytes(100), "no mail"),
}
for name, (content, says) in MAILS.items():
    HOSTILE[f"mail/{name}"] = Case(
        lambda folder, content=content: (
            put(folder / "mail/ann/ham/0.eml", b"Subject: x\n\ny"),
            put(folder / "mail/ann/spam/0.eml", content()),
        ),
        read_mail_folder,
        says and f"expected mail in .*{says}",
    )
HOSTILE["mail/pipe"] = Case(
    lambda folder: (put(folder / "mail/ann/ham/0.eml", b"Subject: x\n\ny"), os.mkfifo(folder / "mail/ann/ham/1.eml")),
    read_mail_folder,
    "a named pipe",
)
GOOD["mail"] = Case(
    lambda folder: put(folder / "mail/ann/ham/0.eml", b"Subject: x\n\n" + b"buy " * 999), read_mail_folder
)

# Lists and tables, and graphs.


def read_census(folder: Path) -> object:
    from metabox.tasks import CensusIncome

    return CensusIncome(data_root=str(folder)).spec


def read_birds(folder: Path) -> object:
    from metabox.tasks import CUB

    return CUB(data_root=str(folder), **FEW).images


def read_splits(folder: Path) -> object:
    from metabox.tasks import ClassFolder

    return ClassFolder(str(folder / "set"), splits=str(folder / "splits.json"), **FEW).images


def read_graphs(folder: Path) -> object:
    from metabox.export import load_exported

    return load_exported(folder)


def person(**values: str) -> list[str]:
    from metabox.tasks.multitask.census import COLUMNS

    return [
        {"income": "- 50000.", "age": "1"}.get(name, "0") if name not in values else values[name] for name in COLUMNS
    ]


def census(*rows: list[str]) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        stream = io.StringIO()
        csv.writer(stream).writerows(rows)
        for part in ("data", "test"):
            put(folder / f"census-income/census-income.{part}", stream.getvalue().encode())

    return make


def lists(**names: bytes) -> Callable[[Path], object]:
    given = {"images": b"1 a/0.png", "classes": b"1 a", "image_class_labels": b"1 1"} | names
    return lambda folder: (
        put(folder / "cub/images/a/0.png", encoded("png")),
        [put(folder / f"cub/{name}.txt", content) for name, content in given.items()],
    )


def tables(content: bytes) -> Callable[[Path], object]:
    return lambda folder: (
        put(folder / "mini-imagenet/images/a.jpg", JPEG),
        [put(folder / f"mini-imagenet/{split}.csv", content) for split in SPLITS],
    )


def splits(content: bytes) -> Callable[[Path], object]:
    return lambda folder: (put(folder / "set/a/0.png", encoded("png")), put(folder / "splits.json", content))


def pipe_for(make: Callable[[Path], object], name: str) -> Callable[[Path], object]:
    return lambda folder: (make(folder), (folder / name).unlink(), os.mkfifo(folder / name))


TEXTS: dict[str, tuple[Callable[[Path], object], Callable[[Path], object], str]] = {
    "census not a number": (lambda f: census(person(age="nan"))(f), read_census, "numbers in the column age"),
    "census of long values": (lambda f: census(person(race="x" * 5000))(f), read_census, "at most 100 letters"),
    "census of many values": (
        lambda f: census(*(person(race=str(i)) for i in range(2000)))(f), read_census, "at most 1000 different values",
    ),
    "census of one field": (
        lambda f: [put(f / f"census-income/census-income.{part}", b'"' + b"x" * 200_000) for part in ("data", "test")],
        read_census, "expected CSV in",
    ),
    "birds that are not text": (lists(classes=b"1 \xff"), read_birds, "text in UTF-8"),
    "birds without a class": (lists(image_class_labels=b"1 7"), read_birds, "that belong together"),
    "birds of odd lists": (lists(images=b"1"), read_birds, "that belong together"),
    "birds of a pipe": (pipe_for(lists(), "cub/classes.txt"), read_birds, "a named pipe"),
    "birds from elsewhere": (lists(images=b"1 ../../../../../../../etc/passwd"), read_birds, "no PNG|CUB with"),
    "table of nothing": (tables(b""), read_pickles, "columns filename and label"),
    "table with NUL": (tables(b"filename,label\na.jpg,\0b\n"), read_pickles, "."),
    "table not in UTF-8": (tables(b"filename,label\n\xff.jpg,b\n"), read_pickles, "expected CSV"),
    "table of short rows": (tables(b"filename,label\na.jpg\n"), read_pickles, "expected 2 columns"),
    "table of one field": (tables(b"filename,label\n" + b'"' + b"x" * 200_000), read_pickles, "expected CSV"),
    "table of files elsewhere": (tables(b"filename,label\n/etc/passwd,b\n"), read_pickles, "no PNG|miniImageNet with"),
    "splits in lists in lists": (splits(b"[" * 200_000), read_splits, "expected JSON"),
    "splits of a long number": (splits(b"9" * 100_000), read_splits, "expected"),
    "splits not in UTF-8": (splits(b"\xff"), read_splits, "expected JSON"),
    "splits of a pipe": (pipe_for(splits(b""), "splits.json"), read_splits, "which is not a file"),
    "splits of numbers": (splits(b'{"train": [1]}'), read_splits, "something else"),
}  # fmt: skip
for name, (make, read, says) in TEXTS.items():
    HOSTILE[f"text/{name}"] = Case(make, read, says)
GOOD["text"] = Case(splits(b'{"train": ["a"]}'), read_splits)

HOSTILE["graph/pickle"] = Case(
    lambda folder: [
        put(folder / name, zipped(("a/data.pkl", pickle.dumps(Calls(os.mkdir, str(folder / PWNED)), 2))))
        for name in ("adapt.pt2", "predict.pt2")
    ],
    read_graphs,
    "expected trusted=True",
)
