"""Multipart forms: however they are cut, what they say; and what takes more than its share is refused."""

from __future__ import annotations

import contextlib
import time

import pytest

from relay.web.legacy.multipart import HEAD_BYTES, BadForm, Head, Multipart

TYPE = "multipart/form-data; boundary=b"
Parts = list[tuple[str, str | None, bytes]]


def part(name: str, content: bytes) -> bytes:
    return b"--b\r\nContent-Disposition: form-data; " + name.encode() + b"\r\n\r\n" + content + b"\r\n"


def said(raw: bytes, type_: str = TYPE, cut: int = 1 << 20) -> tuple[Parts, bool]:
    """The parts that have ended, and whether the form is whole."""
    form = Multipart(type_, max_parts=10)
    parts: Parts = []
    head, content = Head("", None), b""
    for at in range(0, len(raw), cut):
        for piece in form.feed(raw[at : at + cut]):
            if isinstance(piece, Head):
                head, content = piece, b""
            elif piece is None:
                parts.append((head.name, head.filename, content))
            else:
                content += piece
    return parts, form.is_whole


FORM = part('name="run"', b"7") + part('filename="w.bin"; name=artifacts', b"\r\n--bx\r\n\r\n--\r\n--") + b"--b--\r\n"


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 64, 1000])
def test_fields_and_files_however_they_are_cut(cut: int) -> None:
    parts = [("run", None, b"7"), ("artifacts", "w.bin", b"\r\n--bx\r\n\r\n--\r\n--")]
    assert said(FORM, cut=cut) == (parts, True)
    assert said(b"a preamble\r\n" + FORM + b"an epilogue\r\n--b\r\n", cut=cut) == (parts, True)
    assert said(FORM[:-8], cut=cut) == (parts[:1], False)


@pytest.mark.parametrize(
    ("given", "name", "filename"),
    [
        ('name="a b"', "a b", None),
        ('name="a"; filename=""', "a", ""),
        ('name="a"; filename="q\\"\\\\;.bin"', "a", 'q"\\;.bin'),
        ("NAME=a; FileName=b.bin ", "a", "b.bin"),
        ("name=a; filename=\"x\"; filename*=utf-8''%e2%82%ac.bin", "a", "€.bin"),
        ("name*=iso-8859-1''%e4", "ä", None),
        ('name="a', "a", None),
        ('name="ä"; filename="ö.bin"', "ä", "ö.bin"),
    ],
)
def test_names(given: str, name: str, filename: str | None) -> None:
    assert said(part(given, b"x") + b"--b--") == ([(name, filename, b"x")], True)


def test_parts_without_a_name_are_passed_over() -> None:
    nameless = (
        part("filename=x", b"1") + b"--b\r\n\r\n2\r\n" + b"--b\r\nContent-Disposition: inline; name=a\r\n\r\n3\r\n"
    )
    assert said(nameless + part("name=a", b"4") + b"--b--") == ([("a", None, b"4")], True)


@pytest.mark.parametrize(
    "type_", ["", "text/plain; boundary=b", "multipart/form-data", f"{TYPE}{'b' * 201}", f"{TYPE}{' ' * 1000}"]
)
def test_a_type_without_a_boundary_that_can_be_used(type_: str) -> None:
    with pytest.raises(BadForm, match="Invalid boundary"):
        Multipart(type_, max_parts=10)


def test_a_boundary_in_quotes() -> None:
    assert said(FORM.replace(b"--b", b"--b c"), 'Multipart/Form-Data; charset=utf-8; Boundary="b c"')[1]


def test_too_many_parts_and_a_head_without_an_end_are_refused() -> None:
    with pytest.raises(BadForm, match="more than 10 parts"):
        said(part("name=a", b"") * 11)
    for junk in (b"x" * HEAD_BYTES, b"a: b\r\n" * HEAD_BYTES):
        with pytest.raises(BadForm, match=f"exceed {HEAD_BYTES} bytes"):
            said(b"--b\r\n" + junk, cut=100)


@pytest.mark.parametrize(
    "raw",
    [
        part("; a=b" * 1500, b""),
        part('; a="\\"' * 1000, b""),
        part("(" * 8000, b""),
        part("name=a", b"\r\n--bx" * 100_000),
        part("name=a", b"\r\n--b" * 100_000),
        part("name=a", b"\r\n" * 500_000),
        b"\r\n--b-" * 100_000,
    ],
)
def test_time_goes_with_length(raw: bytes) -> None:
    began = time.process_time()
    with contextlib.suppress(BadForm):
        said(raw, cut=64 * 1024)
    assert time.process_time() - began < 5  # some hundredths: by the square it would be minutes
