"""Key files, announcements, rotation, and what a site holds to be true of the others."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.client.sealed import (
    BadAnnouncement,
    BadIdentity,
    CoordinatorChanged,
    Identity,
    KeyChanged,
    Replayed,
    Trust,
    Untrusted,
)
from relay.client.sealed import trust as trust_module
from relay.client.sealed.identity import MAX_LINKS, PublicKeys, read_announcement
from relay.client.sealed.trust import beside

UID = "0c6b8f6e-8f5c-4f63-9d0e-0f6d3a3c9a01"


def chain_of(identity: Identity, uid: str = UID) -> list[PublicKeys]:
    return read_announcement(uid, identity.announcement(uid))


# --- the file


def test_an_identity_is_kept_in_a_file_of_its_owner(tmp_path: Path) -> None:
    identity = Identity.generate()
    identity.save(tmp_path / "key")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    loaded = Identity.load(tmp_path / "key")
    assert (loaded.public, loaded.path) == (identity.public, tmp_path / "key")
    assert identity.path == tmp_path / "key"
    with pytest.raises(FileExistsError):
        Identity.generate().save(tmp_path / "key")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    Identity.generate().save(tmp_path / "key")
    (tmp_path / "key").chmod(mode)
    with pytest.raises(BadIdentity, match=f"its mode is {mode:04o}.*expected 0600: chmod 600"):
        Identity.load(tmp_path / "key")


def test_what_is_no_identity_is_refused_and_not_shown(tmp_path: Path) -> None:
    Identity.generate().save(tmp_path / "key")
    good = json.loads((tmp_path / "key").read_text())
    other = json.loads(Identity.generate()._content())
    for number, bad in enumerate(
        ["", "{}", json.dumps(good | {"v": 2}), json.dumps(good | {"seal": []}), json.dumps(good | {"chain": []}),
         json.dumps(good | {"sign": "AAAA"}), json.dumps(good | {"seal": other["seal"]}), "x" * 20_000]
    ):  # fmt: skip
        path = tmp_path / f"bad-{number}"
        path.touch(0o600)
        path.write_text(bad)
        with pytest.raises(BadIdentity) as caught:
            Identity.load(path)
        assert good["sign"] not in str(caught.value)
        assert good["seal"][0] not in str(caught.value)


def test_no_secret_is_shown() -> None:
    identity = Identity.generate()
    secrets = json.loads(identity._content())
    for text in (repr(identity), str(identity), identity.announcement(UID), repr(chain_of(identity))):
        decoded = base64.b64decode(text).decode() if text == identity.announcement(UID) else text
        assert secrets["sign"] not in decoded
        assert "AGE-SECRET" not in decoded


def test_a_fingerprint_is_eight_groups_of_five_digits_over_both_keys() -> None:
    one, other = Identity.generate().public, Identity.generate().public
    assert [len(group) for group in one.fingerprint.split()] == [5] * 8
    assert one.fingerprint.replace(" ", "").isdecimal()
    mixed = PublicKeys(sign=one.sign, seal=other.seal)
    assert len({keys.fingerprint for keys in (one, other, mixed)}) == 3


# --- announcements


def test_an_announcement_is_read_back() -> None:
    identity = Identity.generate()
    assert chain_of(identity) == [identity.public]


def test_an_announcement_is_one_sites() -> None:
    with pytest.raises(BadAnnouncement, match="were announced by site"):
        read_announcement("another", Identity.generate().announcement(UID))


ANNOUNCED = base64.b64decode(Identity.generate().rotate().announcement(UID))


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, 8 * len(ANNOUNCED) - 1))
def test_a_bit_flipped_in_an_announcement_changes_no_key(at: int) -> None:
    changed = bytearray(ANNOUNCED)
    changed[at // 8] ^= 1 << at % 8
    try:
        keys = read_announcement(UID, base64.b64encode(changed).decode())
    except BadAnnouncement:
        return
    assert keys == read_announcement(UID, base64.b64encode(ANNOUNCED).decode())  # an unused bit of base64


@pytest.mark.parametrize("text", [None, 7, "", "!", "e30=", base64.b64encode(b"\xff" * 40).decode()])
def test_noise_is_no_announcement(text: object) -> None:
    with pytest.raises(BadAnnouncement):
        read_announcement(UID, text)


def test_links_that_do_not_belong_together_are_refused() -> None:
    mine, theirs = Identity.generate(), Identity.generate().rotate()
    grafted = json.loads(base64.b64decode(theirs.announcement(UID)))
    grafted["chain"][0] = json.loads(base64.b64decode(mine.announcement(UID)))["chain"][0]
    with pytest.raises(BadAnnouncement, match="signature"):
        read_announcement(UID, base64.b64encode(json.dumps(grafted).encode()).decode())


# --- rotation


def test_a_rotated_identity_is_signed_for_by_the_one_before(tmp_path: Path) -> None:
    first = Identity.generate()
    first.save(tmp_path / "key")
    second = first.rotate()
    third = Identity.load(tmp_path / "key").rotate()
    assert chain_of(third) == third.chain == [first.public, second.public, third.public]
    assert Identity.load(tmp_path / "key").public == third.public
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_a_chain_has_an_end(tmp_path: Path) -> None:
    identity = Identity.generate()
    for _ in range(MAX_LINKS + 2):
        identity = identity.rotate()
    assert len(chain_of(identity)) == MAX_LINKS
    assert len(identity.announcement(UID)) <= 8192  # what a relay takes
    identity.save(tmp_path / "key")
    assert chain_of(Identity.load(tmp_path / "key"))[-1] == identity.public


# --- trust


def test_first_use_is_trusted_and_a_change_is_not(tmp_path: Path) -> None:
    anna, impostor = Identity.generate(), Identity.generate()
    with Trust(tmp_path / "trust") as trust:
        assert trust.accept(UID, chain_of(anna)) == anna.public
    assert (tmp_path / "trust").stat().st_mode & 0o777 == 0o600
    with Trust(tmp_path / "trust") as trust:
        with pytest.raises(KeyChanged, match=anna.fingerprint) as caught:
            trust.accept(UID, chain_of(impostor))
        assert caught.value.shown == impostor.fingerprint
        assert trust.accept(UID, chain_of(anna)) == anna.public
        (site,) = trust.sites()
        assert (site.keys, site.how, site.offered) == (anna.public, "first use", impostor.public)


def test_without_first_use_nobody_is_trusted_before_somebody_says_so() -> None:
    anna = Identity.generate()
    trust = Trust(first_use=False)
    with pytest.raises(Untrusted, match="not trusted yet"):
        trust.accept(UID, chain_of(anna))
    with pytest.raises(Untrusted, match="shown no such key"):
        trust.trust(UID, Identity.generate().fingerprint)
    assert trust.trust(UID, anna.fingerprint.replace(" ", "")).how == "by hand"
    assert trust.accept(UID, chain_of(anna)) == anna.public


def test_a_rotation_is_followed_and_cannot_be_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Identity.generate()
    third = first.rotate().rotate()
    trust = Trust()
    trust.accept(UID, chain_of(first))
    assert trust.accept(UID, chain_of(third)) == third.public
    for keys in chain_of(third):
        assert trust.signer(UID, keys.id) == keys  # what was on its way
    with pytest.raises(KeyChanged):
        trust.accept(UID, chain_of(first))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + trust_module.FORMER_S + 1)
    assert trust.signer(UID, first.public.id) is None
    assert trust.signer(UID, third.public.id) == third.public


def test_a_key_that_was_replaced_by_hand_is_good_for_nothing() -> None:
    lost, new = Identity.generate(), Identity.generate()
    trust = Trust()
    trust.accept(UID, chain_of(lost))
    trust.accept(UID, chain_of(lost.rotate()))
    with pytest.raises(KeyChanged):
        trust.accept(UID, chain_of(new))
    trust.trust(UID, new.fingerprint)
    assert trust.accept(UID, chain_of(new)) == new.public
    assert trust.signer(UID, lost.public.id) is None


def test_an_identity_is_one_sites_and_a_project_has_one_coordinator() -> None:
    trust = Trust()
    first = Identity.generate()
    second = first.rotate()
    trust.is_me(UID, first.chain)
    trust.is_me(UID, second.chain)
    assert trust.signer(UID, first.public.id) == first.public
    assert trust.signer(UID, second.public.id) == second.public
    with pytest.raises(BadIdentity, match="is that of site"):
        trust.is_me("another", second.chain)
    trust.accept_coordinator(12, "anna")
    trust.accept_coordinator(12, "anna")
    with pytest.raises(CoordinatorChanged, match=r"keys trust bert FINGERPRINT --coordinates 12"):
        trust.accept_coordinator(12, "bert")
    trust.trust_coordinator(12, "bert")
    trust.accept_coordinator(12, "bert")


def test_an_event_has_one_place_in_a_journal() -> None:
    trust = Trust()
    began = time.time() - 1

    def see(offset: int | None, epoch: str = "e", since: float = began) -> str:
        return trust.see(12, UID, "id", epoch=epoch, offset=offset, since=since)

    assert see(7) == "first"
    assert see(7) == "unfinished"  # the site was killed
    for offset in (8, None):
        with pytest.raises(Replayed):
            see(offset)
    trust.processed(12, UID, "id")
    assert see(7) == "unfinished"  # by another process of this site, which runs
    assert see(7, since=time.time() + 1) == "done"
    assert see(9, epoch="restored", since=time.time() + 1) == "done"


def test_what_was_shown_is_remembered_for_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()

    def sight() -> str:
        with Trust(tmp_path / "trust") as trust:
            return trust.see(12, UID, "id", epoch="e", offset=7, since=now)

    assert sight() == "first"
    monkeypatch.setattr(time, "time", lambda: now + 2 * trust_module.SEEN_S - 1)
    assert sight() == "unfinished"
    monkeypatch.setattr(time, "time", lambda: now + 2 * trust_module.SEEN_S + 1)
    assert sight() == "first"


@pytest.mark.parametrize("content", [b"no database, but long enough to be taken for one" * 100])
def test_a_trust_file_that_is_none_or_that_others_can_write_is_refused(tmp_path: Path, content: bytes) -> None:
    path = beside(tmp_path / "key")
    assert path.name == "key.trust"
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(BadIdentity, match="expected a trust file"):
        Trust(path)
    path.chmod(0o666)
    with pytest.raises(BadIdentity, match="chmod 600"):
        Trust(path)
