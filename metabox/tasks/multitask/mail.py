"""Labelled mail of several users: the text of the files becomes hashed word counts, and no content is run."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from email import message_from_bytes
from email.errors import MessageError
from email.header import decode_header
from email.message import Message
from email.policy import Compat32
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from metabox.arrays import Integers
from metabox.config import Unpack
from metabox.data.page import page_text
from metabox.data.readers import name_some, open_file
from metabox.data.root import FolderFiles, in_home
from metabox.episodes import SPLITS
from metabox.ranges import Positive, TwoOrMore
from metabox.seeding import share_of
from metabox.targets import Classes, TaskSpec
from metabox.tasks.descriptors import About, Descriptor, OneHot, hashed_counts
from metabox.tasks.named import FiniteOptions, FiniteTasks
from metabox.tasks.rows import Rows

Floats32 = NDArray[np.float32]

MOST_BYTES = 25 << 20  # of a mail: what most servers accept
MOST_PARTS = 1000  # of a mail: text, its HTML version, attachments
MOST_DEPTH = 100  # of nested parts: mail that was forwarded again and again
MOST_LETTERS = 1 << 20  # of its texts: more than a person writes
MOST_HEADER = 2048  # letters
MOST_LINES = 500_000
MOST_COMPARED = 10_000_000  # lines with boundaries
NESTED = re.compile(rb"(?i)(?:multipart|message)/")
NO_CHARSETS = ("punycode", "idna", "unicode_escape", "raw_unicode_escape", "undefined")  # slow, or not character sets
WORD = re.compile(r"[^\W_]{2,32}")
LABELS = ("ham", "spam")


@dataclass(frozen=True)
class Mail:
    """What a filter needs of a mail.

    words: of the subject and of all texts, in lower case
    date: when it was sent by its header, in UTC; None if it does not say
    """

    words: list[str]
    date: datetime | None


def read_mail(content: bytes) -> Mail:
    """The words and the date of a mail, whatever its encodings; text parts count, attachments do not.

    Raises:
        ValueError: if it is not a mail, or is larger or more nested than any mail.
    """
    if len(content) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES >> 20} MiB")
    try:
        _check_structure(content)
        message = message_from_bytes(content, policy=_Headers())
        if not message.keys() or b"\0" in content[:1024]:
            raise ValueError("no mail: it does not begin with headers")
        texts = [_header(message, "subject"), *_texts(message)]
    except RecursionError as error:
        raise ValueError("parts nested too deeply") from error
    return Mail([word for text in texts for word in WORD.findall(text.lower())], _date(message))


class MailFolder(FiniteTasks):
    """Your own labelled mail, `<user>/spam/*.eml` and `<user>/ham/*.eml`: users as tasks of two classes, ham 0, spam 1.

    x is the hashed counts of words in the subject and the texts: log(1 + count) of each of `features` places.

    Args:
        path: the folder of the users' folders.
        features: size of x.
        split_by: "time" splits each user's mail by the Date header, the earliest (and mail without a date) for training
            and the latest for test; "content" splits by a hash of the file, so that copies stay together.
        fractions: of the mail for train, val and test.
        descriptor: what a learner is told about a user; by default the index, `OneHot`.
        **kwargs: of `FiniteTasks`.

    Raises:
        ValueError: at the first use, if the folder has another layout, or files are not mail, naming all of them.
    """

    def __init__(
        self,
        path: str,
        features: TwoOrMore = 4096,
        split_by: Literal["time", "content"] = "time",
        fractions: tuple[Positive, Positive, Positive] = (0.6, 0.2, 0.2),
        descriptor: Descriptor | None = None,
        **kwargs: Unpack[FiniteOptions],
    ) -> None:
        if abs(sum(fractions) - 1) > 1e-6:
            raise ValueError(f"expected fractions that sum to 1, got {fractions}")
        super().__init__(**kwargs)
        self.path = path
        self.features = features
        self.split_by: Literal["time", "content"] = split_by
        self.fractions = fractions
        self.descriptor = descriptor or OneHot()

    def load(self) -> Rows:
        folder = in_home(self.path)
        boxes = read_mailboxes(folder, self.features, self.split_by, self.fractions)
        told = self.descriptor.beyond_index([About(name=name) for name in boxes.names])
        index = self.descriptor.index_size(len(told))
        return Rows(
            x=torch.from_numpy(np.log1p(boxes.counts)),
            y=torch.from_numpy(boxes.y),
            split=np.array(SPLITS)[boxes.split],
            spec=TaskSpec(
                (self.features,),
                Classes(2),
                index + told.shape[1],
                tasks=boxes.names,
                index_size=index,
            ),
            task=boxes.user,
            descriptors=told,
        )


@dataclass(frozen=True, eq=False)
class Mailboxes:
    """The mail of several users.

    counts: hashed counts of words, `[n, features]`
    y: 0 for ham and 1 for spam, `[n]`
    user: `[n]`
    split: 0, 1 and 2 for train, val and test, `[n]`
    names: of the users
    """

    counts: Floats32
    y: Integers
    user: Integers
    split: Integers
    names: tuple[str, ...]


def read_mailboxes(
    folder: Path, features: int, split_by: Literal["time", "content"], fractions: tuple[float, float, float]
) -> Mailboxes:
    """Read `<user>/spam/*.eml` and `<user>/ham/*.eml`, the users in the order of their names.

    Raises:
        ValueError: if the folder has another layout, or files are not mail, naming all of them.
    """
    if not folder.is_dir():
        raise ValueError(f"expected a folder of users' mail, got {str(folder)!r}, which is not one")
    found = [(name, *name.split("/")) for name in FolderFiles(folder).names]
    stray = [name for name, *parts in found if len(parts) != 3 or parts[1] not in LABELS or not name.endswith(".eml")]
    if stray or not found:
        raise ValueError(
            f"expected <user>/spam/<mail>.eml and <user>/ham/<mail>.eml in {folder}, "
            f"got {name_some(stray) or 'no files'}; move or remove them"
        )
    names = tuple(sorted({user for _, user, *_ in found}))
    counts = np.zeros((len(found), features), dtype=np.float32)
    dates, digests, bad = [], [], []
    for i, (name, *_) in enumerate(tqdm(found, desc="reading mail", unit=" mails", leave=False, disable=None)):
        with open_file(folder / name) as file:
            content = file.read(MOST_BYTES + 1)
        digests.append(share_of(content))
        try:
            mail = read_mail(content)
        except ValueError as error:
            bad.append(f"{name} ({error})")
            continue
        counts[i] = hashed_counts(mail.words, features)
        dates.append(mail.date.timestamp() if mail.date else -np.inf)
    if bad:
        raise ValueError(f"expected mail in {folder}, got {len(bad)} files that are not: {name_some(bad)}; remove them")
    user = np.array([names.index(user) for _, user, *_ in found])
    y = np.array([LABELS.index(label) for _, _, label, _ in found])
    place = _rank_within(user, np.array(dates)) if split_by == "time" else np.array(digests)
    split = np.searchsorted(np.cumsum(fractions)[:2], place, side="right")
    return Mailboxes(counts, y, user, split, names)


def _rank_within(user: Integers, date: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rank of each mail among the user's by date, scaled to [0, 1)."""
    order = np.lexsort((date, user))
    size = np.bincount(user)
    rank = np.empty(len(user))
    rank[order] = (np.arange(len(user)) - (np.cumsum(size) - size)[user[order]]) / size[user[order]]
    return rank


class _Headers(Compat32):
    """Cuts headers at a length that no mail program exceeds: the standard library parses long ones too slowly."""

    def header_source_parse(self, sourcelines: list[str]) -> tuple[str, str]:
        name, value = super().header_source_parse(sourcelines)
        return name, value[:MOST_HEADER]


def _check_structure(content: bytes) -> None:
    """Raise if parts would take too long to parse: every line is compared with each open boundary."""
    lines = content.count(b"\n") + content.count(b"\r") - content.count(b"\r\n")
    nested = len(NESTED.findall(content))
    if nested > MOST_PARTS:
        raise ValueError(f"more than {MOST_PARTS} parts")
    if lines > MOST_LINES or lines * nested > MOST_COMPARED:
        raise ValueError(f"{lines:,} lines in {nested} parts of parts, more than mail has")


def _texts(message: Message) -> Iterator[str]:
    """The text parts; if a mail has both plain text and HTML, both."""
    left = MOST_LETTERS
    for number, part in enumerate(_parts(message)):
        if number == MOST_PARTS:
            raise ValueError(f"more than {MOST_PARTS} parts")
        if part.get_content_maintype() != "text" or part.get_content_disposition() == "attachment":
            continue
        payload = part.get_payload(decode=True)
        text = _decoded(payload if isinstance(payload, bytes) else b"", part.get_content_charset())[:left]
        left -= len(text)
        yield "".join(page_text(text)) if part.get_content_subtype() == "html" else text


def _parts(message: Message) -> Iterator[Message]:
    """As `message.walk`, to a depth that does not depend on the interpreter's recursion limit."""
    left = [(message, 0)]
    while left:
        part, depth = left.pop()
        if depth > MOST_DEPTH:
            raise ValueError("parts nested too deeply")
        yield part
        if part.is_multipart():
            left += [(inner, depth + 1) for inner in reversed(part.get_payload())]  # type: ignore[arg-type]


def _decoded(content: bytes, charset: str | None) -> str:
    """Text in a character set that may be missing, unknown or wrong."""
    try:
        if codecs.lookup(charset or "utf-8").name not in NO_CHARSETS:
            return content.decode(charset or "utf-8", errors="replace")
    except (LookupError, ValueError):
        pass
    return content.decode("latin-1")


def _header(message: Message, name: str) -> str:
    value = str(message.get(name, ""))
    try:
        parts = decode_header(value)
    except (ValueError, MessageError):  # not base64
        return value
    return " ".join(_decoded(part, charset) if isinstance(part, bytes) else part for part, charset in parts)


def _date(message: Message) -> datetime | None:
    try:
        date = parsedate_to_datetime(str(message["date"]))
        return date.replace(tzinfo=timezone.utc) if date.tzinfo is None else date.astimezone(timezone.utc)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
