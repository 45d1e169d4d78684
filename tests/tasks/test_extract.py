"""Features written to files: in order, the same however they were made, and after a kill at any moment."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from untrained import save_untrained

import passl_simsiam
from passl_simsiam.commands import extract as command
from passl_simsiam.errors import UserError
from passl_simsiam.log import RunLog
from passl_simsiam.tasks import extract
from passl_simsiam.tasks.images import encoder, open_images
from passl_simsiam.tasks.pretrained import load_pretrained

FILES = ("features.npy", "index.csv", "broken.csv", "extract.json")
COUNT, BROKEN = 61, (7, 40)  # images, of which these cannot be read


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_untrained(tmp_path_factory.mktemp("network") / "run")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of several sizes in two class folders; two files are broken."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for k in range(COUNT):
        path = folder / ("cats" if k < 30 else "dogs") / f"{k:03d}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 256, (16 + k % 5, 20, 3)).astype(np.uint8))
        if k in BROKEN:
            path.write_bytes(path.read_bytes()[:40])
    return folder


def names(photos: Path) -> list[str]:
    return [str(path) for k, path in enumerate(sorted(photos.rglob("*.png"))) if k not in BROKEN]


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def extraction(run: Path, photos: Path, out: Path, **changes: object) -> extract.Progress:
    network = load_pretrained(run)
    settings = extract.Settings(**{"batch_size": 8, **changes})  # type: ignore[arg-type]
    with RunLog(None) as log:
        data = open_images(str(photos), network.images.in_channels)
        return extract.extract_to(out, network, data, network.transform, settings, log, commit_seconds=0)


@pytest.fixture(scope="module")
def whole(run: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an undisturbed extraction writes."""
    out = tmp_path_factory.mktemp("whole")
    extraction(run, photos, out)
    return out


def test_rows_are_those_of_the_index_and_the_features_those_of_the_network(run, photos, whole):
    features = np.load(whole / "features.npy", mmap_mode="r")
    with (whole / "index.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == names(photos)
    assert [row["row"] for row in rows] == [str(k) for k in range(len(rows))]
    assert [row["label"] for row in rows] == [Path(name).parent.name for name in names(photos)]
    assert features.shape == (COUNT - len(BROKEN), 32)
    assert features.dtype == np.float32

    network = load_pretrained(run)
    encode = encoder(network.backbone, network.images.mean, network.images.std)
    for k in (0, 20, len(rows) - 1):
        image = cv2.cvtColor(cv2.imread(rows[k]["path"]), cv2.COLOR_BGR2RGB)
        (view,) = network.transform(image, [np.random.default_rng(0)])
        np.testing.assert_allclose(features[k], encode(view[None])[0], rtol=1e-5, atol=1e-6)
    assert features.std(axis=0).max() > 0.01

    broken = (whole / "broken.csv").read_text().splitlines()
    assert [Path(line.split(",")[0]).stem for line in broken[1:]] == [f"{k:03d}" for k in BROKEN]
    record = json.loads((whole / "extract.json").read_text())
    model = run / "checkpoints/latest/model.safetensors"
    assert record["checkpoint"]["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert (record["layer"], record["rows"], record["broken"]) == ("backbone", COUNT - 2, 2)
    assert sorted(path.name for path in whole.iterdir()) == sorted(FILES)


def test_worker_processes_write_the_same_bytes(run, photos, whole, tmp_path):
    extraction(run, photos, tmp_path / "out", num_workers=2)
    assert contents(tmp_path / "out") == contents(whole)


@pytest.mark.parametrize("batches", [0, 1, 5, 8])
def test_an_extraction_that_failed_goes_on_to_the_same_bytes(run, photos, whole, tmp_path, monkeypatch, batches):
    out = tmp_path / "out"
    calls = 0

    def failing(*arguments):
        encode = encoder(*arguments)

        def call(images):
            nonlocal calls
            calls += 1
            if calls > batches:
                raise RuntimeError("power cut")
            return encode(images)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(extract, "encoder", failing)
        if batches < 8:
            with pytest.raises(RuntimeError, match="power cut"):
                extraction(run, photos, out)
        else:
            patched.setattr(extract, "finish", lambda *arguments: None)  # killed before the files got their names
            extraction(run, photos, out)
    assert not (out / "features.npy").exists()
    for part in out.glob("*.part"):  # what was written after the last commit
        with part.open("ab") as file:
            file.write(b"torn")
    done = extraction(run, photos, out)
    assert contents(out) == contents(whole)
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    assert (done.rows, done.broken) == (COUNT - 2, 2)


def test_a_finish_cut_short_is_finished(run, photos, whole, tmp_path, monkeypatch):
    out = tmp_path / "out"
    real = Path.replace

    def refusing(path, target):
        if path.name == "index.csv.part":
            raise RuntimeError("killed between two names")
        return real(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", refusing)
        with pytest.raises(RuntimeError, match="between"):
            extraction(run, photos, out)
    assert (out / "features.npy").exists()
    extraction(run, photos, out)
    assert contents(out) == contents(whole)


SLOWLY = """
import sys, time
from passl_simsiam.runtime import prepare_environment
prepare_environment()
sys.path[:0] = sys.argv[4:]
from pathlib import Path
from passl_simsiam.tasks import extract
from test_extract import extraction
real = extract.encoder
def slow(*arguments):
    encode = real(*arguments)
    def call(images):
        time.sleep(0.2)
        return encode(images)
    return call
extract.encoder = slow
extraction(*map(Path, sys.argv[1:4]))
"""


def test_a_killed_process_loses_nothing(run, photos, whole, tmp_path):
    out = tmp_path / "out"
    here = Path(__file__).parent
    command = [sys.executable, "-c", SLOWLY, str(run), str(photos), str(out), str(here)]
    process = subprocess.Popen(command, start_new_session=True)
    end = time.monotonic() + 60
    done = 0
    while done < 3 and time.monotonic() < end and process.poll() is None:
        time.sleep(0.02)
        if (out / "progress.json").exists():
            done = json.loads((out / "progress.json").read_text())["batches"]
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert 3 <= done < 8
    assert not (out / "features.npy").exists()
    extraction(run, photos, out)
    assert contents(out) == contents(whole)


def test_half_precision_and_checksums(run, photos, whole, tmp_path):
    extraction(run, photos, tmp_path, dtype="float16", sha256=True)
    half, full = np.load(tmp_path / "features.npy"), np.load(whole / "features.npy")
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, full.astype(np.float16))
    with (tmp_path / "index.csv").open() as file:
        row = list(csv.DictReader(file))[10]
    assert row["sha256"] == hashlib.sha256(Path(row["path"]).read_bytes()).hexdigest()


def test_features_that_float16_cannot_hold_are_refused():
    with pytest.raises(UserError, match="70000 do not fit into float16"):
        extract._typed(np.array([[1.0, 70000.0]], np.float32), "float16")


@pytest.mark.parametrize(("layer", "channels"), [("projector", 32), ("predictor", 32)])
def test_layers(run, photos, tmp_path, layer, channels):
    assert extraction(run, photos, tmp_path, layer=layer).channels == channels


def test_a_folder_of_other_features_is_left_alone(run, photos, whole, tmp_path):
    before = contents(whole)
    with pytest.raises(UserError, match="holds features of another dtype"):
        extraction(run, photos, whole, dtype="float16")
    (tmp_path / "features.npy").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"holds features\.npy of something else"):
        extraction(run, photos, tmp_path)
    assert contents(whole) == before
    assert extraction(run, photos, whole).rows == COUNT - 2  # complete: nothing to do
    assert contents(whole) == before


def test_lost_files_are_noticed(run, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(extract, "finish", lambda *arguments: None)
    extraction(run, photos, tmp_path)
    progress = json.loads((tmp_path / "progress.json").read_text())
    progress["batches"] = 4
    (tmp_path / "progress.json").write_text(json.dumps(progress))
    os.truncate(tmp_path / "features.npy.part", 200)
    with pytest.raises(UserError, match=r"features\.npy\.part is shorter than progress\.json says"):
        extraction(run, photos, tmp_path)


def test_nothing_readable_is_an_error(run, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"no image")
    assert command.main([str(run), str(folder), str(tmp_path / "out")]) == 2
    assert "none of 1 images can be read" in capsys.readouterr().err


def test_the_command(run, photos, whole, tmp_path, capsys):
    out = tmp_path / "out"
    assert command.main([str(run), str(photos), str(out), "--batch", "8", "--size", "12"]) == 0
    assert "59 x 32 float32 of the backbone, Resize(size=12); 2 images could not be read" in capsys.readouterr().out
    assert (np.load(out / "features.npy") != np.load(whole / "features.npy")).any()
    # index.csv is itself a list of images.
    again = tmp_path / "again"
    listed = out.parent / "listed.csv"
    listed.write_text((out / "index.csv").read_text())
    assert command.main([str(run), str(listed), str(again), "--batch", "8", "--size", "12"]) == 0
    np.testing.assert_allclose(np.load(again / "features.npy"), np.load(out / "features.npy"), rtol=1e-5, atol=1e-6)
    assert (again / "index.csv").read_text() == (out / "index.csv").read_text()
    assert command.main([str(run), str(photos), str(tmp_path / "x"), "--layer", "projector", "--resize", "10"]) == 2
    assert "resize is 10; it must be at least size, 16" in capsys.readouterr().err


def test_three_lines_of_python(run, photos, whole):
    backbone = passl_simsiam.load_backbone(run)
    assert (backbone.out_channels, backbone.in_channels, backbone.image_size) == (32, 3, 16)
    assert (backbone.mean, backbone.std) == ((0.3, 0.4, 0.5), (0.2, 0.25, 0.3))
    assert not backbone.training
    expected = np.load(whole / "features.npy")
    of_files = passl_simsiam.extract(backbone, names(photos))
    np.testing.assert_allclose(of_files, expected, rtol=1e-5, atol=1e-6)
    arrays = [cv2.cvtColor(cv2.imread(name), cv2.COLOR_BGR2RGB) for name in names(photos)]
    np.testing.assert_array_equal(passl_simsiam.extract(backbone, arrays), of_files)
    small = np.stack([cv2.resize(array, (16, 16)) for array in arrays])
    np.testing.assert_array_equal(
        passl_simsiam.extract(backbone, small, batch_size=7), passl_simsiam.extract(backbone, small, num_workers=1)
    )
    grey = np.repeat(small[:, :, :, :1], 3, axis=3)
    np.testing.assert_array_equal(
        passl_simsiam.extract(backbone, small[:, :, :, :1]), passl_simsiam.extract(backbone, grey)
    )
    with pytest.raises(UserError, match=r"2 of 61 samples .* are bad, and a row is wanted for each: .*007\.png"):
        passl_simsiam.extract(backbone, photos)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((4, 4, 3), np.uint8), "uint8 [n, height, width, channels], not [4, 4, 3]"),
        ([np.zeros((4, 4, 3))], "image 0 is float64 [4, 4, 3]"),
        ([np.zeros((4, 4, 2), np.uint8)], "image 0 has 2 channels, the network takes 3"),
        ([], "there are no images"),
        ("nowhere", "there are no images at nowhere"),
    ],
)
def test_other_things_than_images_are_refused(run, images, words):
    backbone = passl_simsiam.load_backbone(run)
    with pytest.raises(UserError) as error:
        passl_simsiam.extract(backbone, images)
    assert words in str(error.value)


def test_a_bare_weight_file_says_what_it_assumes(run, tmp_path):
    bare = tmp_path / "weights.safetensors"
    bare.write_bytes((run / "checkpoints/latest/model.safetensors").read_bytes())
    with pytest.warns(UserWarning, match="does not say how its images were prepared: taking 32 pixels"):
        backbone = passl_simsiam.load_backbone(tmp_path / "weights")
    assert backbone.mean == (0.485, 0.456, 0.406)
    whole = passl_simsiam.load_backbone(run)
    for name in ("mean", "std", "transform"):
        setattr(backbone, name, getattr(whole, name))
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype(np.uint8)
    np.testing.assert_array_equal(passl_simsiam.extract(backbone, images), passl_simsiam.extract(whole, images))


def test_importing_the_package_leaves_paddle_alone():
    code = "import passl_simsiam, sys; passl_simsiam.load_backbone; print('paddle' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
