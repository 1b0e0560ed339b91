"""Filters of mail: folders of it, and made mail whose best filter is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mail_cases import made

from metabox.tasks.descriptors import Metadata, Specification, hash_token
from metabox.tasks.multitask.mail import MailFolder, read_mailboxes
from metabox.tasks.multitask.spam import N_WORDS, TOPICS, MadeMail, Users, choose, count_words, word_places
from metabox.tasks.place import Place


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
