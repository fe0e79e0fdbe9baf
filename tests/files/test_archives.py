"""What is in archives is read within limits; nothing in them leads out, and what is damaged costs only itself."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from pathlib import Path

import pytest

from rlm_wasm import FileLimits, Files
from rlm_wasm.contexts import prepare

TEXTS = {"one.txt": b"one", "deep/two.txt": "zwei: ü".encode()}


def zipped(texts: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", how) as archive:
        for name, content in texts.items():
            archive.writestr(name, content)
    return made.getvalue()


def tarred(texts: dict[str, bytes], mode: str = "w", *others: tarfile.TarInfo) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=mode) as archive:  # pyright: ignore[reportCallIssue, reportArgumentType]
        for name, content in texts.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 1_000_000_000
            archive.addfile(info, io.BytesIO(content))
        for info in others:
            archive.addfile(info)
    return made.getvalue()


def facts_of(context: object) -> dict[str, tuple[str, str]]:
    return {fact["path"]: (fact["kind"], fact["note"]) for fact in prepare(context).beside["context_files"]}


# --- what is read --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.zip", zipped(TEXTS)),
        ("a.zip", zipped(TEXTS, zipfile.ZIP_BZIP2)),
        ("a.zip", zipped(TEXTS, zipfile.ZIP_LZMA)),
        ("a.tar", tarred(TEXTS)),
        ("a.tar.gz", tarred(TEXTS, "w:gz")),
        ("a.tgz", tarred(TEXTS, "w:gz")),
        ("a.tar.bz2", tarred(TEXTS, "w:bz2")),
        ("a.tar.xz", tarred(TEXTS, "w:xz")),
    ],
)
def test_an_archive_is_its_files(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    alone = prepare(tmp_path / name)
    assert alone.value == {"one.txt": "one", "deep/two.txt": "zwei: ü"}
    assert facts_of(tmp_path / name)[name] == ("archive", "2 files were read of it")
    assert prepare(tmp_path).value == {f"{name}/one.txt": "one", f"{name}/deep/two.txt": "zwei: ü"}
    assert prepare(Files(tmp_path, archives=False)).value == {name: content}


@pytest.mark.parametrize(("suffix", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
def test_a_compressed_file_is_what_it_holds(tmp_path: Path, suffix: str, pack) -> None:
    (tmp_path / f"run.log.{suffix}").write_bytes(pack(b"line\n" * 10))
    assert prepare(tmp_path / f"run.log.{suffix}").value == "line\n" * 10
    assert prepare(tmp_path).value == {f"run.log.{suffix}": "line\n" * 10}
    assert facts_of(tmp_path) == {f"run.log.{suffix}": ("text", f"unpacked from {suffix}")}


def test_files_in_a_tar_have_their_own_dates(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tarred(TEXTS))
    assert prepare(tmp_path).beside["context_files"][1]["modified"] == "2001-09-09T01:46:40Z"


def test_archives_in_archives_are_opened_so_deep_and_no_deeper(tmp_path: Path) -> None:
    inner = zipped({"text.txt": b"text"})
    (tmp_path / "a.zip").write_bytes(zipped({"b.zip": zipped({"c.zip": inner}), "d.zip": inner}))
    assert prepare(tmp_path / "a.zip").value == {"b.zip/c.zip": inner, "d.zip/text.txt": "text"}
    assert facts_of(tmp_path / "a.zip")["b.zip/c.zip"] == ("bytes", "an archive so deep in others is not opened")
    deeper = Files(tmp_path / "a.zip", limits=FileLimits(depth=3))
    assert list(prepare(deeper).value) == ["b.zip/c.zip/text.txt", "d.zip/text.txt"]


# --- what leads out ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["/etc/passwd", "../up.txt", "a/../../up.txt", "..\\up.txt", "C:\\up.txt"])
def test_a_path_out_of_an_archive_is_said_and_not_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.zip").write_bytes(zipped({name: b"evil", "good.txt": b"good"}))
    (tmp_path / "a.tar").write_bytes(tarred({name: b"evil", "good.txt": b"good"}))
    assert prepare(tmp_path).value == {"a.tar/good.txt": "good", "a.zip/good.txt": "good"}
    notes = [note for kind, note in facts_of(tmp_path).values() if kind == "unread"]
    assert notes == ["its path leads out of the archive"] * 2


def test_links_and_devices_in_archives_are_said_and_not_followed(tmp_path: Path) -> None:
    others: list[tarfile.TarInfo] = []
    for name, kind in {"soft": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "pipe": tarfile.FIFOTYPE}.items():
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "/etc/passwd"
        others.append(info)
    (tmp_path / "a.tar").write_bytes(tarred(TEXTS, "w", *others))
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        link = zipfile.ZipInfo("soft")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("one.txt", "one")
    (tmp_path / "b.zip").write_bytes(made.getvalue())
    facts = facts_of(tmp_path)
    assert {path: note for path, (kind, note) in facts.items() if kind == "unread"} == {
        "a.tar/soft": "it is a link",
        "a.tar/hard": "it is a link",
        "a.tar/pipe": "it is a device or a pipe",
        "b.zip/soft": "it is a link",
    }
    assert len(prepare(tmp_path).value) == 3


# --- what is too much ----------------------------------------------------------------------------------------------

SMALL = FileLimits(unpacked_bytes=100_000)
ZEROS = bytes(1_000_000)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.zip", zipped({"small.txt": b"small", "zeros.bin": ZEROS})),
        ("a.gz", gzip.compress(ZEROS)),
        ("a.xz", lzma.compress(ZEROS)),
        ("a.tar.gz", tarred({"small.txt": b"small", "zeros.bin": ZEROS}, "w:gz")),
        ("a.zip", zipped({"b.zip": zipped({"zeros.bin": ZEROS})})),
        ("a.zip", zipped({f"{number}.bin": bytes(20_000) for number in range(9)})),
    ],
)
def test_a_bomb_is_an_error_alone_and_costs_only_itself_in_a_folder(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "z.txt").write_text("z", "utf-8")
    with pytest.raises(ValueError, match=rf"{name}: .*unpacks to more than 100,000 bytes"):
        prepare(Files(tmp_path / name, limits=SMALL))
    prepared = prepare(Files(tmp_path, limits=SMALL))
    assert prepared.value["z.txt"] == "z"
    assert sum(map(len, prepared.value.values())) <= 100_001
    notes = "".join(fact["note"] for fact in prepared.beside["context_files"])
    assert "it unpacks to more than 100,000 bytes" in notes


def test_what_unpacks_to_many_times_its_size_is_a_bomb_and_noticed_before_it_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bytes(40_000_000)))
    with pytest.raises(ValueError, match=r"unpacks to more than 200 times its size, as a bomb does"):
        prepare(tmp_path / "bomb.gz")


def test_what_a_zip_says_of_its_sizes_is_not_believed(tmp_path: Path) -> None:
    content = zipped({"zeros.bin": ZEROS})
    lying = content.replace(len(ZEROS).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    assert lying != content
    (tmp_path / "a.zip").write_bytes(lying)
    (tmp_path / "z.txt").write_text("z", "utf-8")
    prepared = prepare(Files(tmp_path, limits=SMALL))
    assert sum(map(len, prepared.value.values())) < 100_000


def test_more_files_than_may_be_are_an_error_in_archives_too(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped({f"{number}.txt": b"" for number in range(50)}))
    with pytest.raises(ValueError, match=r"a\.zip: there are more than 20 files"):
        prepare(Files(tmp_path, limits=FileLimits(files=20)))


# --- what is damaged -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.zip", zipped(TEXTS)[:70]),
        ("a.tar.gz", tarred(TEXTS, "w:gz")[:40]),
        ("a.bz2", bz2.compress(b"text")[:-8]),
        ("a.gz", gzip.compress(b"text")[:10] + b"\xff" * 20),
        ("a.xz", lzma.compress(b"text")[:20] + b"\xff" * 20),
    ],
    # the contents hold the time of day
    ids=["zip", "tar", "bzip2", "gzip", "xz"],
)
def test_a_damaged_archive_is_an_error_alone_and_costs_only_itself_in_a_folder(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "z.txt").write_text("z", "utf-8")
    with pytest.raises(ValueError, match=rf"{name}: it is damaged"):
        prepare(tmp_path / name)
    assert prepare(tmp_path).value == {"z.txt": "z"}
    assert facts_of(tmp_path)[name][0] == "unread"


def test_of_a_log_that_was_cut_short_in_its_compression_is_what_there_is(tmp_path: Path) -> None:
    lines = "".join(f"line {number}\n" for number in range(50_000)).encode()
    whole = gzip.compress(lines)
    (tmp_path / "run.log.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="it is cut short"):
        prepare(tmp_path / "run.log.gz")
    text = prepare(tmp_path).value["run.log.gz"]
    assert len(text) > 10_000
    assert lines.startswith(text.encode())
    assert "it is cut short" in facts_of(tmp_path)["run.log.gz"][1]


def test_an_encrypted_file_in_a_zip_is_said(tmp_path: Path) -> None:
    content = bytearray(zipped({"secret.txt": b"x"}, zipfile.ZIP_STORED))
    # the flag in the central directory, and the one before the file
    content[content.index(b"PK\x01\x02") + 8] |= 1
    content[6] |= 1
    (tmp_path / "a.zip").write_bytes(content)
    (tmp_path / "z.txt").write_text("z", "utf-8")
    assert facts_of(tmp_path)["a.zip/secret.txt"] == ("unread", "it is encrypted")


def test_a_name_that_only_looks_like_an_archive_is_read_as_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_text("no archive at all", "utf-8")
    (tmp_path / "b.docx.gz").write_text("nor this", "utf-8")
    assert prepare(tmp_path).value == {"a.zip": "no archive at all", "b.docx.gz": "nor this"}
