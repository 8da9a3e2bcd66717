from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sam_monai.__main__ import main
from sam_monai.backbones.download import download
from sam_monai.backbones.weights import KNOWN_WEIGHTS, Weights
from sam_monai.bundle.commands import known_files
from sam_monai.errors import InputError
from sam_monai.locks import alone

DATA = bytes(range(256)) * 4000  # 1 MB


class Server(ThreadingHTTPServer):
    """Serves ``data`` at any address, badly if told so."""

    data = DATA
    ranges = True  # answers requests for a range
    cut: int | None = None  # closes the connection after so many bytes
    status: int | None = None  # answers with this error only

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []

    @property
    def weights(self) -> Weights:
        url = f"http://127.0.0.1:{self.server_address[1]}/w.pth"
        sha256 = hashlib.sha256(DATA).hexdigest()
        return replace(KNOWN_WEIGHTS["sam_vit_b"], name="w", filename="w.pth", url=url, sha256=sha256)


class Handler(BaseHTTPRequestHandler):
    server: Server  # type: ignore[assignment]

    def do_GET(self) -> None:
        asked = self.headers["Range"]
        self.server.asked.append(asked)
        data, start, status = self.server.data, 0, self.server.status or 200
        if asked and self.server.ranges and status == 200:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])  # type: ignore[index]
            status = 206 if start < len(data) else 416
        body = data[start:] if status < 400 else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.cut])
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_download_arrives_whole_and_leaves_nothing_beside_it(server: Server, tmp_path: Path):
    path = download(server.weights, tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "w.pth"
    assert path.read_bytes() == DATA and list(path.parent.iterdir()) == [path]


def test_without_a_folder_it_goes_where_weights_are_looked_for(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SAM_MONAI_CACHE", str(tmp_path))
    assert download(server.weights) == tmp_path / "weights" / "w.pth"


def test_a_file_that_is_there_is_checked_and_not_fetched_again(server: Server, tmp_path: Path):
    (tmp_path / "w.pth").write_bytes(DATA)
    download(server.weights, tmp_path)
    assert server.asked == []
    (tmp_path / "w.pth").write_bytes(b"other")
    with pytest.raises(InputError, match=r"w\.pth is there already and is not w.*Move it away"):
        download(server.weights, tmp_path)
    assert (tmp_path / "w.pth").read_bytes() == b"other"


def test_a_cut_download_goes_on_where_it_stopped(server: Server, tmp_path: Path):
    server.cut = 600_000
    with pytest.raises(InputError, match=r"127\.0\.0\.1.*run this again, which goes on"):
        download(server.weights, tmp_path)
    kept = (tmp_path / "w.pth.part").stat().st_size
    assert 0 < kept <= 600_000 and not (tmp_path / "w.pth").exists()
    server.cut = None
    assert download(server.weights, tmp_path).read_bytes() == DATA
    assert server.asked == [None, f"bytes={kept}-"]


def test_a_server_that_sends_only_whole_files_starts_again(server: Server, tmp_path: Path):
    server.ranges = False
    (tmp_path / "w.pth.part").write_bytes(DATA[:1000])
    assert download(server.weights, tmp_path).read_bytes() == DATA
    assert server.asked == ["bytes=1000-"]


def test_a_part_that_is_whole_is_taken(server: Server, tmp_path: Path):
    (tmp_path / "w.pth.part").write_bytes(DATA)
    assert download(server.weights, tmp_path).read_bytes() == DATA
    assert not (tmp_path / "w.pth.part").exists()


@pytest.mark.parametrize("part", [b"wrong", b"x" * (len(DATA) + 5)])
def test_a_part_of_something_else_is_deleted_so_that_the_next_try_works(server: Server, tmp_path: Path, part: bytes):
    (tmp_path / "w.pth.part").write_bytes(part)
    with pytest.raises(InputError, match="other bytes than expected"):
        download(server.weights, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert download(server.weights, tmp_path).read_bytes() == DATA


def test_wrong_bytes_never_get_the_name_of_the_weights(server: Server, tmp_path: Path):
    server.data = DATA[:-1] + b"?"
    with pytest.raises(InputError, match=f"{hashlib.sha256(server.data).hexdigest()} .*{server.weights.sha256}"):
        download(server.weights, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", [404, 503])
def test_an_error_of_the_server_is_told_and_the_part_is_kept(server: Server, tmp_path: Path, status: int):
    server.status = status
    (tmp_path / "w.pth.part").write_bytes(DATA[:1000])
    with pytest.raises(InputError, match=rf"w\.pth.*{status}"):
        download(server.weights, tmp_path)
    assert (tmp_path / "w.pth.part").read_bytes() == DATA[:1000]


def test_no_connection_is_told_with_the_way_around_it(server: Server, tmp_path: Path):
    weights = replace(server.weights, url="http://127.0.0.1:1/w.pth")
    with pytest.raises(InputError, match=r"127\.0\.0\.1:1.*bring the file by other means to .*w\.pth"):
        download(weights, tmp_path)


def test_a_folder_that_cannot_be_made_is_told(server: Server, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file/.*cannot be written"):
        download(server.weights, tmp_path / "file")


def test_two_processes_do_not_write_to_one_part(server: Server, tmp_path: Path):
    with alone(tmp_path / "w.pth", "a download"), pytest.raises(InputError, match="in use by a download .process"):
        download(server.weights, tmp_path)
    assert server.asked == [] and list(tmp_path.iterdir()) == []
    download(server.weights, tmp_path)


@pytest.mark.parametrize("lacking", ["url", "sha256"])
def test_weights_without_an_address_or_a_hash_are_not_downloaded(server: Server, tmp_path: Path, lacking: str):
    with pytest.raises(InputError, match="w cannot be downloaded"):
        download(replace(server.weights, **{lacking: None}), tmp_path)
    assert server.asked == [] and list(tmp_path.iterdir()) == []


def test_every_known_download_is_pinned():
    assert all(file.sha256 and re.fullmatch(r"https://\S+", file.url) for file in known_files().values() if file.url)


def test_the_command_lists_all_known_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("SAM_MONAI_CACHE", str(tmp_path))
    here = tmp_path / "weights" / "mobile_sam.pt"
    here.parent.mkdir()
    here.touch()
    assert main(["weights"]) == 0
    printed = capsys.readouterr().out
    for name, file in known_files().items():
        assert re.search(rf"^{name} .*{re.escape(file.licence)}.*{re.escape(file.provenance)}$", printed, re.MULTILINE)
    assert re.search(rf"^mobile_sam +vit_t +1024 +yes .*\n +{re.escape(str(here))}$", printed, re.MULTILINE)
    assert re.search(r"^sam_vit_b .* no .*\n +run `sam-monai download sam_vit_b`$", printed, re.MULTILINE)


def test_the_command_downloads_and_prints_where_to(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(KNOWN_WEIGHTS, "w", server.weights)
    assert main(["download", "w", "--folder", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'w.pth'}\n"


@pytest.mark.parametrize(("name", "says"), [("sam_vit_x", "sam_vit_b, sam_vit_l"), ("mobile_sam", "MobileSAM")])
def test_the_command_prints_what_was_wrong_last_and_fails(name: str, says: str, capsys: pytest.CaptureFixture[str]):
    assert main(["download", name]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ") and says in last
    assert main(["no_such_command"]) == 1
