"""Downloads from a real server that cuts, lies, moves and forgets."""

from __future__ import annotations

import fcntl
import socket
from pathlib import Path
from typing import Any

import pytest
from server import BODY, Behaviour, serve

from passl_simsiam.errors import UserError
from passl_simsiam.zoo import http
from passl_simsiam.zoo.http import TRIES, fetch


def get(url: str, part: Path, **more: Any) -> bytes:
    fetch(url, part, pause=0.0, **more)
    return part.read_bytes()


def ranges(behaviour: Behaviour) -> list[str | None]:
    return [headers.get("Range") for _, headers in behaviour.requests]


def test_a_whole_file_with_progress(tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    with serve(Behaviour()) as url:
        assert get(f"{url}/file", tmp_path / "f", report=lambda *n: seen.append(n)) == BODY
    assert seen[0] == (0, len(BODY))
    assert seen[-1] == (len(BODY), len(BODY))
    assert [n for n, _ in seen] == sorted(n for n, _ in seen)


def test_cut_connections_are_gone_on_with(tmp_path: Path) -> None:
    behaviour = Behaviour(cut=[100_000, 0, 300_000])
    with serve(behaviour) as url:
        assert get(f"{url}/file", tmp_path / "f") == BODY
    assert ranges(behaviour) == [None, "bytes=100000-", "bytes=100000-", "bytes=400000-"]
    assert behaviour.requests[1][1]["If-Range"] == '"v1"'


def test_an_interrupted_command_is_gone_on_with(tmp_path: Path) -> None:
    behaviour = Behaviour(cut=[70_000] + [0] * TRIES)
    with serve(behaviour) as url:
        with pytest.raises(UserError, match=r"70,000 of 1,048,576 bytes.*70,000 bytes are kept") as caught:
            get(f"{url}/file", tmp_path / "f")
        assert "\n" not in str(caught.value)
        behaviour.cut.clear()
        behaviour.requests.clear()
        assert get(f"{url}/file", tmp_path / "f") == BODY
    assert ranges(behaviour) == ["bytes=70000-"]


def test_a_file_that_changed_meanwhile_is_not_mixed(tmp_path: Path) -> None:
    behaviour = Behaviour(cut=[70_000] + [0] * TRIES)
    with serve(behaviour) as url:
        with pytest.raises(UserError):
            get(f"{url}/file", tmp_path / "f")
        behaviour.body, behaviour.etag = BODY[::-1], '"v2"'
        behaviour.cut.clear()
        assert get(f"{url}/file", tmp_path / "f") == BODY[::-1]


@pytest.mark.parametrize("change", [{"ranges": False}, {"etag": None}, {"etag": 'W/"v1"'}])
def test_without_ranges_or_a_version_it_begins_anew(tmp_path: Path, change: dict[str, Any]) -> None:
    behaviour = Behaviour(cut=[70_000], **change)
    with serve(behaviour) as url:
        assert get(f"{url}/file", tmp_path / "f") == BODY


def test_the_beginning_of_another_address_is_not_used(tmp_path: Path) -> None:
    behaviour = Behaviour(cut=[70_000] + [0] * TRIES)
    with serve(behaviour) as url:
        with pytest.raises(UserError):
            get(f"{url}/other", tmp_path / "f")
        behaviour.cut.clear()
        behaviour.requests.clear()
        get(f"{url}/file", tmp_path / "f")
    assert ranges(behaviour) == [None]


def test_another_part_than_asked_for_is_thrown_away(tmp_path: Path) -> None:
    behaviour = Behaviour(cut=[70_000], wrong_range=True)
    with serve(behaviour) as url:
        assert get(f"{url}/file", tmp_path / "f") == BODY
    assert ranges(behaviour) == [None, "bytes=70000-", None]


def test_a_complete_part_is_kept(tmp_path: Path) -> None:
    behaviour = Behaviour()
    with serve(behaviour) as url:
        get(f"{url}/file", tmp_path / "f")
        assert get(f"{url}/file", tmp_path / "f") == BODY
    assert ranges(behaviour) == [None, f"bytes={len(BODY)}-"]


def test_redirects_are_followed(tmp_path: Path) -> None:
    with serve(Behaviour()) as url:
        assert get(f"{url}/moved", tmp_path / "f") == BODY


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(tmp_path: Path) -> None:
    behaviour = Behaviour(statuses=[503, 429])
    with serve(behaviour) as url:
        assert get(f"{url}/file", tmp_path / "f") == BODY
        behaviour.statuses, behaviour.requests[:] = [404], []
        with pytest.raises(UserError, match="HTTP 404 Not Found"):
            get(f"{url}/file", tmp_path / "g")
    assert len(behaviour.requests) == 1


@pytest.mark.parametrize(
    ("behaviour", "size", "message"),
    [
        (Behaviour(), 5, "has 1,048,576 bytes, but should have 5"),
        (Behaviour(length=False), 1000, "sends more than the 1,000 bytes"),
        (Behaviour(length=False), len(BODY) + 1, "has 1,048,576 bytes, but should have 1,048,577"),
        (Behaviour(kind="text/html; charset=utf-8"), None, "gives a web page"),
    ],
    ids=["other length", "endless", "too short", "web page"],
)
def test_wrong_lengths_and_contents(tmp_path: Path, behaviour: Behaviour, size: int | None, message: str) -> None:
    with serve(behaviour) as url, pytest.raises(UserError, match=message):
        get(f"{url}/file", tmp_path / "f", size=size)


def test_without_a_length_the_known_size_counts(tmp_path: Path) -> None:
    with serve(Behaviour(length=False)) as url:
        assert get(f"{url}/file", tmp_path / "f", size=len(BODY)) == BODY


def test_nobody_there(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UserError, match=rf"Connection refused \({TRIES} tries\)") as caught:
        get(f"http://127.0.0.1:{port}/file", tmp_path / "f")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no network here, or only through a proxy"):
        get("http://nowhere.invalid/file", tmp_path / "f")


def test_a_silent_server_is_given_up(tmp_path: Path) -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{silent.getsockname()[1]}/file"
    with silent, pytest.raises(UserError, match="does not answer in time"):
        get(url, tmp_path / "f", timeout=0.05)


def test_proxies_of_the_environment_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    behaviour = Behaviour()
    with serve(behaviour) as proxy:
        monkeypatch.setenv("http_proxy", proxy)
        assert get("http://weights.invalid/file", tmp_path / "f") == BODY
        monkeypatch.setenv("no_proxy", "weights.invalid")
        with pytest.raises(UserError, match="cannot be resolved"):
            get("http://weights.invalid/file", tmp_path / "g")
    assert [path for path, _ in behaviour.requests] == ["http://weights.invalid/file"]


def test_two_at_once(tmp_path: Path) -> None:
    with (tmp_path / "f").open("ab") as other, serve(Behaviour()) as url:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="by another process"):
            get(f"{url}/file", tmp_path / "f")


def test_a_disk_too_small_is_said_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr(http.shutil, "disk_usage", lambda _: Usage)
    with serve(Behaviour()) as url, pytest.raises(UserError, match="0 MB free, and 1 MB are still to come"):
        get(f"{url}/file", tmp_path / "f")
    assert not (tmp_path / "f").stat().st_size
