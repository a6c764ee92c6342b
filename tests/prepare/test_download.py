from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mml_ray.errors import DataError, MMLMisconfigurationException
from mml_ray.prepare import dataset, download
from mml_ray.prepare.dataset import DSetCreator
from mml_ray.prepare.download import fetch
from mml_ray.store.data_root import DataRoot
from tests.prepare.makers import files_below, zip_of
from tests.prepare.server import Behaviour, serving

CONTENT = bytes(range(256)) * 4000


@pytest.fixture
def served() -> Iterator[Behaviour]:
    with serving(CONTENT) as behaviour:
        yield behaviour


def get(served: Behaviour, path: Path, **options: Any) -> Path:
    return fetch(f"{served.url}/scans.zip", path, sleep=lambda seconds: None, **options)


def test_a_file_arrives_once_with_progress(served: Behaviour, tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    path = get(served, tmp_path / "new" / "scans.zip", progress=lambda *step: seen.append(step))
    assert path.read_bytes() == CONTENT and list(path.parent.iterdir()) == [path]
    assert seen[-1] == (len(CONTENT), len(CONTENT), "download scans.zip") and len(seen) > 2
    get(served, path)
    assert len(served.requests) == 1


def test_a_dropped_connection_is_continued(served: Behaviour, tmp_path: Path) -> None:
    served.drops = [300_000, 100_000]
    assert get(served, tmp_path / "x").read_bytes() == CONTENT
    starts = [int((asked or "bytes=0-")[6:-1]) for _, asked, _ in served.requests]
    assert starts[0] == 0 and 200_000 < starts[1] <= 300_000 and starts[1] < starts[2] <= 400_000


def test_what_a_killed_process_left_is_continued(served: Behaviour, tmp_path: Path) -> None:
    (tmp_path / "wip_x").write_bytes(CONTENT[:500_000])
    (tmp_path / "wip_x.json").write_text(json.dumps({"ETag": '"v1"'}))
    assert get(served, tmp_path / "x").read_bytes() == CONTENT
    assert [asked for _, asked, _ in served.requests] == ["bytes=500000-"]
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("notes", ['{"ETag": "\\"v0\\""}', "{}", "{", None])
def test_pieces_of_another_version_are_not_mixed(served: Behaviour, tmp_path: Path, notes: str | None) -> None:
    (tmp_path / "wip_x").write_bytes(b"old" * 1000)
    if notes is not None:
        (tmp_path / "wip_x.json").write_text(notes)
    assert get(served, tmp_path / "x").read_bytes() == CONTENT


def test_a_checksum_allows_to_continue_without_a_version(served: Behaviour, tmp_path: Path) -> None:
    served.etag = ""
    served.drops = [300_000]
    assert get(served, tmp_path / "x", checksum=hashlib.md5(CONTENT).hexdigest()).read_bytes() == CONTENT
    assert len(served.requests) == 2 and str(served.requests[1][1]).startswith("bytes=2")


def test_a_complete_piece_needs_no_more_bytes(served: Behaviour, tmp_path: Path) -> None:
    (tmp_path / "wip_x").write_bytes(CONTENT)
    assert get(served, tmp_path / "x", checksum=hashlib.sha256(CONTENT).hexdigest()).read_bytes() == CONTENT
    (tmp_path / "wip_y").write_bytes(CONTENT + b"too long")
    assert get(served, tmp_path / "y", checksum=hashlib.sha256(CONTENT).hexdigest()).read_bytes() == CONTENT


def test_servers_without_ranges_are_asked_again(served: Behaviour, tmp_path: Path) -> None:
    served.ranges, served.drops = False, [300_000]
    assert get(served, tmp_path / "x").read_bytes() == CONTENT


def test_a_wrong_checksum_removes_the_file(served: Behaviour, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"/x has the md5 checksum .* expected is 00000"):
        get(served, tmp_path / "x", checksum="0" * 32)
    assert list(tmp_path.iterdir()) == []


def test_busy_servers_are_asked_again_and_others_are_not(served: Behaviour, tmp_path: Path) -> None:
    served.failures = [503, 429]
    waits: list[float] = []
    assert fetch(f"{served.url}/x", tmp_path / "x", sleep=waits.append).read_bytes() == CONTENT
    assert waits == [2.0, 4.0]
    served.failures = [404, 200]
    with pytest.raises(DataError, match="/y cannot be downloaded: the server says 404"):
        fetch(f"{served.url}/y", tmp_path / "y", sleep=waits.append)
    served.failures = [500] * 4
    with pytest.raises(DataError, match="after 4 attempts .*put the file at .*/z"):
        fetch(f"{served.url}/z", tmp_path / "z", sleep=waits.append)
    with pytest.raises(DataError, match="after 4 attempts .*ConnectionError"):
        fetch("http://127.0.0.1:9/z", tmp_path / "z", sleep=waits.append)


# -- as part of a dataset ----------------------------------------------------------------------------------------------------
def test_a_dataset_from_a_download(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "scans.zip", {"a.txt": b"1"}).read_bytes()
    with serving(archive) as behaviour:
        creator = DSetCreator("scans", data_root=DataRoot(tmp_path / "root"))
        creator.download(f"{behaviour.url}/s.zip", "s.zip", data_kind=dataset.DataKind.TRAINING_DATA)
        with pytest.raises(DataError, match="has already been added to dataset 'scans'"):
            creator.download(f"{behaviour.url}/s.zip", "s.zip")
        with pytest.raises(MMLMisconfigurationException, match="within the download folder"):
            creator.download(f"{behaviour.url}/s.zip", "../s.zip")
        assert (creator.download_path / "s.zip").is_file()
        folder = creator.unpack_and_store(clear_download_folder=True)
    assert files_below(folder) == {"training_data/a.txt": b"1"} and not creator.download_path.exists()


def test_kaggle_needs_to_know_who_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    creator = DSetCreator("scans", data_root=DataRoot(tmp_path / "root"))
    with pytest.raises(MMLMisconfigurationException, match="KAGGLE_USERNAME"):
        creator.kaggle_download(dataset="owner/brain-scans")
    with pytest.raises(MMLMisconfigurationException, match="either a competition or a dataset"):
        creator.kaggle_download()
    with pytest.raises(MMLMisconfigurationException, match="either a competition or a dataset"):
        creator.kaggle_download(dataset="a/b", competition="c")
    (tmp_path / ".kaggle").mkdir()
    (tmp_path / ".kaggle" / "kaggle.json").write_text('{"username": "stored", "key": "k0"}')
    assert download.kaggle_credentials() == ("stored", "k0")
    monkeypatch.setenv("KAGGLE_USERNAME", "me")
    monkeypatch.setenv("KAGGLE_KEY", "k1")
    with serving(zip_of(tmp_path / "x.zip", {"a.txt": b"1"}).read_bytes()) as behaviour:
        monkeypatch.setattr(dataset, "KAGGLE_URL", behaviour.url)
        creator.kaggle_download(dataset="owner/brain-scans")
        creator.kaggle_download(competition="tumours", data_kind=dataset.DataKind.TESTING_DATA)
    token = "Basic " + base64.b64encode(b"me:k1").decode()
    assert [(path, auth) for path, _, auth in behaviour.requests] == [
        ("/datasets/download/owner/brain-scans", token),
        ("/competitions/data/download-all/tumours", token),
    ]
    assert sorted(files_below(creator.download_path)) == ["kaggle/brain-scans.zip", "kaggle/tumours.zip"]
    assert set(files_below(creator.unpack_and_store())) == {"mixed_data/a.txt", "testing_data/a.txt"}
