"""Names to files: the list, the cache, checksums, and what a recipe or a command makes of a name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from server import Behaviour, serve

from passl_simsiam import zoo
from passl_simsiam.checkpoint.layouts import LAYOUTS
from passl_simsiam.checkpoint.weights import load_weights
from passl_simsiam.checkpoint.writers import write_pth
from passl_simsiam.commands import convert
from passl_simsiam.commands.download import main
from passl_simsiam.errors import UserError
from passl_simsiam.zoo import manifest

paddle = pytest.importorskip("paddle")
FILE = "checkpoint_0099.pth.tar"


def network() -> dict[str, np.ndarray]:
    """A small network's weights in torchvision's names."""
    from passl_simsiam.models.backbones.resnet import ResNet18

    state = ResNet18(width=2, stem="cifar").state_dict()
    return {k.replace("_mean", "running_mean").replace("_variance", "running_var"): v.numpy() for k, v in state.items()}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Behaviour]:
    """A server with one file of weights, and a list that names it."""
    write_pth(tmp_path / "theirs.pth", network())
    behaviour = Behaviour(body=(tmp_path / "theirs.pth").read_bytes())
    with serve(behaviour) as url:
        publish(tmp_path / "models.yaml", monkeypatch, url=f"{url}/{FILE}")
        yield behaviour


def publish(path: Path, monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
    entry = {"content": "pretraining", "method": "SimSiam", "architecture": "ResNet18", "dataset": "noise",
             "epochs": 1, "batch_size": 2, "top1": 0.1, "format": "torchvision", "url": "", "size": None,
             "sha256": None, "licence": "CC0-1.0", "page": "https://example.org"} | changes  # fmt: skip
    path.write_text(yaml.safe_dump({"tiny": entry}))
    monkeypatch.setattr(manifest, "MANIFEST", path)
    manifest._read.cache_clear()


def test_the_published_list(root: Path) -> None:
    entries = zoo.catalog()
    assert {"facebook_simsiam_r50_100ep", "passl_simsiam_r50_100ep"} <= entries.keys()
    assert all(entry.format in LAYOUTS for entry in entries.values())
    assert all(entry.url.startswith("https://") for entry in entries.values())
    assert (root / "pretrained/models.yaml").read_bytes() == manifest.MANIFEST.read_bytes()


def test_download_use_and_convert(server: Behaviour, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="fetch them by `passl-download tiny`"):
        zoo.resolve("tiny")
    assert main(["tiny"]) == 0
    out, err = capsys.readouterr()
    assert "layout torchvision/torchvision" in out
    assert hashlib.sha256(server.body).hexdigest() in out
    assert "gives no checksum" in err
    path = zoo.resolve("tiny")
    assert path == tmp_path / "cache/tiny" / FILE
    assert path.read_bytes() == server.body
    assert sorted(p.name for p in path.parent.iterdir()) == [FILE, f"{FILE}.first.json"]
    assert "backbone.conv1.weight" in load_weights(path)
    assert convert.main(["tiny", str(tmp_path / "ours.safetensors")]) == 0
    assert main(["tiny"]) == 0
    assert len(server.requests) == 1  # it was there
    assert main(["--list"]) == 0
    assert f"here: {path}" in capsys.readouterr().out


def test_a_cut_download_goes_on(server: Behaviour, capsys: pytest.CaptureFixture[str],
                                monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr("passl_simsiam.zoo.http.time.sleep", lambda _: None)
    server.cut = [1000] + [0] * 5
    assert main(["tiny"]) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith("error: ")
    assert "1,000 bytes are kept" in err
    assert f"or fetch it elsewhere and put it at {zoo.place_of('tiny')}" in err
    assert not zoo.place_of("tiny").exists()
    server.cut = []
    assert main(["tiny"]) == 0
    assert server.requests[-1][1]["Range"] == "bytes=1000-"


def test_published_checksums_and_sizes(server: Behaviour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, digest = zoo.entry_of("tiny").url, hashlib.sha256(server.body).hexdigest()
    for wrong in ({"sha256": "0" * 64}, {"sha256": "0123abcd"}):
        publish(tmp_path / "models.yaml", monkeypatch, url=url, **wrong)
        with pytest.raises(UserError, match="is not the published file"):
            zoo.download("tiny")
        assert not [p for p in (tmp_path / "cache").rglob("*.part") if p.exists()]
    publish(tmp_path / "models.yaml", monkeypatch, url=url, size=len(server.body) - 1)
    with pytest.raises(UserError, match="should have"):
        zoo.download("tiny")
    for right in ({"sha256": digest, "size": len(server.body)}, {"sha256": digest[:8]}):
        publish(tmp_path / "models.yaml", monkeypatch, url=url, **right)
        assert zoo.download("tiny").read_bytes() == server.body


def test_what_first_arrived_is_what_counts(server: Behaviour, tmp_path: Path) -> None:
    path = zoo.download("tiny")
    path.write_bytes(server.body[:-1] + b"?")
    with pytest.raises(UserError, match="another file than the one that was first fetched"):
        zoo.resolve("tiny")
    path.unlink()
    write_pth(tmp_path / "other.pth", {k: v + 1 for k, v in network().items()})
    server.body, server.etag = (tmp_path / "other.pth").read_bytes(), '"v2"'
    with pytest.raises(UserError, match=r"remove .*first.json if you trust the new one"):
        zoo.download("tiny")
    assert not path.exists()


def test_what_is_no_weight_file_is_not_kept(server: Behaviour) -> None:
    server.body = b"<!DOCTYPE html>"
    with pytest.raises(UserError, match="a web page, not weights"):
        zoo.download("tiny")
    assert not zoo.place_of("tiny").exists()
    server.body = bytes(100)
    with pytest.raises(UserError, match="begins with zeros"):
        zoo.download("tiny")


def test_a_file_put_there_by_hand_is_used(server: Behaviour) -> None:
    path = zoo.place_of("tiny")
    path.parent.mkdir(parents=True)
    path.write_bytes(server.body)
    assert zoo.resolve("tiny") == path
    assert zoo.download("tiny") == path
    assert not server.requests


def test_paths_come_first_and_mistakes_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.pdparams").write_bytes(b"x")
    assert zoo.resolve("mine") == Path("mine.pdparams")
    assert zoo.resolve(tmp_path) == tmp_path
    with pytest.raises(UserError, match=r"nor does the zoo have 'facebook_simsiam_r50' \(passl-download --list\)"):
        zoo.resolve("facebook_simsiam_r50")
    with pytest.raises(UserError, match=r"no weights at other/mine"):
        zoo.resolve("other/mine")
    with pytest.raises(UserError, match="did you mean 'facebook_simsiam_r50_100ep'"):
        zoo.download("facebook_simsiam_r50_100")
