"""Mail as words, and the made mail's Bayes optimum."""

from __future__ import annotations

import contextlib
import time
from datetime import datetime, timezone
from email.message import EmailMessage
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metabox.tasks.descriptors import Metadata, Specification, hash_token
from metabox.tasks.multitask import mail
from metabox.tasks.multitask.mail import Mail, MailFolder, read_mail, read_mailboxes
from metabox.tasks.multitask.spam import N_WORDS, TOPICS, MadeMail, Users, choose, count_words, word_places
from metabox.tasks.place import Place

DATE = "Fri, 05 Jan 2007 10:00:00 +0200"


def made(text: str = "Hello there", **headers: str) -> bytes:
    message = EmailMessage()
    for name, value in {"Subject": "greetings", "Date": DATE, **headers}.items():
        message[name] = value
    message.set_content(text)
    return bytes(message)


def words(content: str | bytes) -> list[str]:
    return read_mail(content if isinstance(content, bytes) else content.encode()).words


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


def folder_of_mail(root: Path, mails: dict[str, bytes]) -> Path:
    for name, content in mails.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def at(day: int) -> str:
    return f"{day:02} Jan 2007 10:00:00 +0000"


FRACTIONS = (0.5, 0.25, 0.25)


def test_a_folder_of_mail_is_counts_of_hashed_words_with_labels_and_users(tmp_path: Path) -> None:
    mails = {"zoe/spam/1.eml": made("buy buy now"), "ann/ham/1.eml": made("lunch"), "ann/spam/b.eml": made("buy")}
    boxes = read_mailboxes(folder_of_mail(tmp_path, mails), 4096, "content", FRACTIONS)
    assert boxes.names == ("ann", "zoe")
    assert boxes.user.tolist() == [0, 0, 1]
    assert boxes.y.tolist() == [0, 1, 1]
    place = {word: hash_token(word, 4096)[0] for word in ("greetings", "lunch", "buy", "now")}
    assert len(set(place.values())) == 4
    assert boxes.counts[2].nonzero()[0].tolist() == sorted(place[word] for word in ("greetings", "buy", "now"))
    assert boxes.counts[2, place["buy"]] == 2


def test_a_split_by_time_trains_on_each_users_earlier_mail_and_tests_on_the_later(tmp_path: Path) -> None:
    days = {"ann": [9, 3, 7, 1, 5, 2, 8, 6], "bob": [28, 27, 26, 25]}
    mails = {f"{u}/ham/{i}.eml": made(Date=at(day)) for u, all_days in days.items() for i, day in enumerate(all_days)}
    boxes = read_mailboxes(folder_of_mail(tmp_path, mails), 8, "time", FRACTIONS)
    by_day = dict(zip([day for all_days in days.values() for day in all_days], boxes.split.tolist(), strict=True))
    assert by_day == {1: 0, 2: 0, 3: 0, 5: 0, 6: 1, 7: 1, 8: 2, 9: 2, 25: 0, 26: 0, 27: 1, 28: 2}


def test_mail_without_a_date_is_trained_on_and_zones_count(tmp_path: Path) -> None:
    dates = ["", "5 Jan 2007 23:00:00 -0900", "6 Jan 2007 01:00:00 +0900", "6 Jan 2007 02:00:00 +0000"]
    mails = {f"ann/ham/{i}.eml": made(Date=date) for i, date in enumerate(dates)}
    boxes = read_mailboxes(folder_of_mail(tmp_path, mails), 8, "time", FRACTIONS)
    assert boxes.split.tolist() == [0, 2, 0, 1]  # in UTC: never, the 6th at 8, the 5th at 16, the 6th at 2


def test_a_split_by_content_keeps_copies_together_and_does_not_depend_on_other_mail(tmp_path: Path) -> None:
    mails = {f"{user}/spam/{i}.eml": made(f"number {i}") for user in ("ann", "bob") for i in range(200)}
    boxes = read_mailboxes(folder_of_mail(tmp_path / "all", mails), 8, "content", FRACTIONS)
    ann, bob = boxes.split[boxes.user == 0], boxes.split[boxes.user == 1]
    assert (ann == bob).all()
    assert np.abs(np.bincount(ann) / 200 - FRACTIONS).max() < 0.1
    few = {name: content for name, content in mails.items() if name.startswith("bob/spam/1")}
    less = read_mailboxes(folder_of_mail(tmp_path / "few", few), 8, "content", FRACTIONS)
    kept = [name in few for name in sorted(mails)]
    assert (less.split == boxes.split[kept]).all()


def test_all_that_is_wrong_with_a_folder_of_mail_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no files"):
        read_mailboxes(folder_of_mail(tmp_path, {}), 8, "time", FRACTIONS)
    good = {"ann/ham/1.eml": made()}
    odd = good | {"ann/junk/1.eml": made(), "notes.txt": b"", "bob/spam/2.txt": made()}
    with pytest.raises(ValueError, match=r"got ann/junk/1\.eml, bob/spam/2\.txt, notes\.txt; move"):
        read_mailboxes(folder_of_mail(tmp_path / "odd", odd), 8, "time", FRACTIONS)
    broken = good | {"ann/spam/1.eml": b"", "bob/ham/2.eml": b"\0"}
    with pytest.raises(ValueError, match=r"2 files that are not: ann/spam/1.eml \(no mail.*bob/ham/2.eml"):
        read_mailboxes(folder_of_mail(tmp_path / "broken", broken), 8, "time", FRACTIONS)


def test_an_index_is_drawn_as_often_as_its_probability_says() -> None:
    p = np.array([[0.2, 0.0, 0.8], [1.0, 0.0, 0.0], [0.25, 0.5, 0.25]])
    u = (np.arange(1000) + 0.5) / 1000
    drawn = choose(p, np.arange(3)[:, None], u)
    np.testing.assert_array_equal([np.bincount(row, minlength=3) for row in drawn], 1000 * p)
    assert choose(p, np.array([0, 1, 2]), np.full(3, 1 - 2.0**-33)).tolist() == [2, 0, 2]


def test_the_best_filter_is_bayes_rule_over_topics_and_words() -> None:
    """One mail and one word at a time, without hashing: p(y|x) = Σ_r p(r) Π p(w|r) p(y|r) / Σ_r p(r) Π p(w|r)."""
    users = Users(3, seed=1)
    words, present, _ = users.mail(5, (2, 6), seed=0)
    places = np.arange(N_WORDS)  # every word in a place of its own
    for user in range(3):
        counts = count_words(words[user], present[user], places, N_WORDS)
        got = users.spam_probability(counts, places, np.full(5, user))
        for mail_ in range(5):
            joint = []
            for topic in range(len(TOPICS)):
                joint.append(users.interests[user, topic])
                for word, there in zip(words[user, mail_], present[user, mail_], strict=True):
                    joint[-1] *= users.words[topic, word] if there else 1
            wanted = sum(p * o for p, o in zip(joint, users.opinions[user], strict=True)) / sum(joint)
            assert abs(got[mail_] - wanted) < 1e-9


def test_the_best_filter_is_calibrated_and_its_accuracy_is_what_it_says() -> None:
    users = Users(20, dissent=0.3)
    words, present, y = users.mail(1000, (10, 40), seed=0)
    places, user = word_places(64), np.repeat(np.arange(20), 1000)  # many words share a place
    counts = count_words(words.reshape(20000, -1), present.reshape(20000, -1), places, 64)
    p, spam = users.spam_probability(counts, places, user), y.ravel()
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):
        among = (p >= low) & (p < low + 0.2)
        assert abs(spam[among].mean() - p[among].mean()) < 0.03
    right = ((p > 0.5) == spam).mean()
    assert abs(right - np.maximum(p, 1 - p).mean()) < 0.01
    stranger = users.spam_probability(counts, places, (user + 1) % 20)
    assert ((stranger > 0.5) == spam).mean() < right - 0.1


def test_dissent_is_the_share_of_topics_in_which_users_differ_from_the_crowd() -> None:
    assert len(np.unique(Users(50, dissent=0.0).against, axis=0)) == 1
    crowd = Users(1, dissent=0.0).against[0]
    assert abs((Users(500, dissent=0.3).against != crowd).mean() - 0.3) < 0.02


def test_descriptors_tell_interests_as_metadata_and_opinions_as_specification_and_text() -> None:
    users = Users(5)
    about = users.about()
    np.testing.assert_allclose(Metadata(standardise=False).vectors(about), users.interests, rtol=1e-6)
    in_order = np.argsort(TOPICS)
    np.testing.assert_array_equal(Specification().vectors(about), users.against[:, in_order])
    spam, wanted = about[0].text.removeprefix("spam: ").split(". wanted: ")
    assert set(spam.split()) == {t for t, no in zip(TOPICS, users.against[0], strict=True) if no}
    assert set(spam.split()) | set(wanted.split()) == set(TOPICS)


def test_made_mail_has_an_oracle_that_is_the_best_filters_log_likelihood() -> None:
    tasks = MadeMail(n_users=6, n_train=(3, 9), n_eval=40, n_query=12)
    users, places = Users(6), word_places(256)
    episodes = tasks.sample(Place(6, "test"))
    for t in range(6):
        counts = np.expm1(episodes.query.x[t].double().numpy()).round()
        p = users.spam_probability(counts, places, np.full(12, int(episodes.task[t])))
        wanted = np.where(episodes.query.y[t].numpy() == 1, np.log(p), np.log(1 - p))[episodes.query.mask[t].numpy()]
        assert abs(float(episodes.oracle[t]) - wanted.mean()) < 1e-4


def test_made_mail_tells_who_the_user_is_and_trains_on_as_much_as_it_says() -> None:
    tasks = MadeMail(n_users=6, n_train=(3, 9), n_eval=40, n_query=12)
    assert tasks.spec.tasks == tuple(f"user-{i}" for i in range(6))
    episodes = tasks.sample(Place(6, "val"))
    torch.testing.assert_close(episodes.descriptor.argmax(1), episodes.task)
    seen = {split: [set(), *(set() for _ in range(5))] for split in ("train", "val", "test")}
    for split, rows in seen.items():
        for index in range(30):
            some = tasks.sample(Place(6, split, index=index))
            for t, ids in zip(some.task.tolist(), some.origin.tolist(), strict=True):
                rows[t] |= {i for i in ids if i >= 0}
    assert len({len(ids) for ids in seen["train"]}) > 1
    for t in range(6):
        assert 3 <= len(seen["train"][t]) <= 9
        assert len(seen["val"][t]) == len(seen["test"][t]) == 40
        assert (
            not seen["train"][t] & seen["val"][t]
            | seen["train"][t] & seen["test"][t]
            | seen["val"][t] & seen["test"][t]
        )


def test_made_mail_is_a_function_of_its_arguments() -> None:
    one, same, other = (
        MadeMail(n_users=4, n_query=5, data_seed=seed).sample(Place(4, "train", index=3)) for seed in (0, 0, 1)
    )
    assert torch.equal(one.query.x, same.query.x)
    assert not torch.equal(one.query.x, other.query.x)


def test_a_mail_folder_is_tasks(tmp_path: Path) -> None:
    mails = {
        f"{user}/{label}/{i}.eml": made(f"{label} {user}", Date=at(i))
        for user in ("ann", "bob")
        for label in ("ham", "spam")
        for i in range(1, 11)
    }
    tasks = MailFolder(str(folder_of_mail(tmp_path, mails)), features=64, n_query=3)
    assert tasks.spec.tasks == ("ann", "bob")
    episodes = tasks.sample(Place(2, "test"))
    tasks.spec.check_episodes(episodes)
    spam = hash_token("spam", 64)[0]
    for t, m in ((0, 0), (0, 1), (1, 2)):
        assert episodes.query.x[t, m].max() <= np.float32(np.log1p(2))
        assert bool(episodes.query.x[t, m, spam] > 0) == bool(episodes.query.y[t, m] == 1)


def test_options_out_of_range_are_refused(tmp_path: Path) -> None:
    for make, message in (
        (lambda: MailFolder(str(tmp_path), fractions=(1.0, 0.5, 0.5)), "sum to 1"),
        (lambda: MailFolder(str(tmp_path / "none")).spec, "which is not one"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
