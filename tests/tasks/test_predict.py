"""A classifier's table of predictions."""

from __future__ import annotations

import csv

import cv2
import numpy as np
import paddle
import pytest
from untrained import save_untrained

from passl_simsiam.commands import predict as command
from passl_simsiam.tasks.images import encoder
from passl_simsiam.tasks.pretrained import load_pretrained

CLASSES = [f"kind, {k}" for k in range(10)]  # a comma, which the table must bear


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for k in range(9):
        cv2.imwrite(str(folder / f"{k}.png"), rng.integers(0, 256, (16, 16, 3)).astype(np.uint8))
    (folder / "4.png").write_bytes(b"broken")
    return folder


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_probabilities_are_the_softmax_of_the_logits(photos, tmp_path, capsys):
    run = save_untrained(tmp_path / "run", "lp", classes=CLASSES)
    out = tmp_path / "p.csv"
    assert command.main([str(run), str(photos), str(out), "--top", "3", "--batch", "4"]) == 0
    said = capsys.readouterr().out
    assert "8 images, Resize(size=16); 1 could not be read" in said
    assert "4.png" in said
    table = rows(out)
    assert [row["path"] for row in table] == [str(photos / f"{k}.png") for k in range(9) if k != 4]
    network = load_pretrained(run)
    encode = encoder(network.logits(), network.images.mean, network.images.std)
    for row in table:
        image = cv2.cvtColor(cv2.imread(row["path"]), cv2.COLOR_BGR2RGB)
        expected = paddle.nn.functional.softmax(paddle.to_tensor(encode(image[None])), axis=1).numpy()[0]
        order = np.argsort(-expected)[:3]
        assert [row[f"class_{k}"] for k in (1, 2, 3)] == [CLASSES[c] for c in order]
        found = [float(row[f"probability_{k}"]) for k in (1, 2, 3)]
        np.testing.assert_allclose(found, expected[order], atol=1e-5)

    whole = tmp_path / "all.csv"
    assert command.main([str(run), str(photos), str(whole), "--top", "10", "--workers", "1"]) == 0
    assert sum(float(rows(whole)[0][f"probability_{k}"]) for k in range(1, 11)) == pytest.approx(1, abs=1e-5)
    one = tmp_path / "one.csv"
    assert command.main([str(run), str(photos / "0.png"), str(one)]) == 0
    assert [row["class_5"] for row in rows(one)] == [rows(whole)[0]["class_5"]]


def test_mistakes_end_in_one_line_and_leave_no_file(photos, tmp_path, capsys):
    out = tmp_path / "p.csv"
    backbone = save_untrained(tmp_path / "pretrained")
    probe = save_untrained(tmp_path / "probe", "lp")
    for arguments, words in (
        ([str(backbone), str(photos), str(out)], "is no classifier: it holds backbone, neck, head; train a linear"),
        ([str(probe), str(photos), str(out), "--top", "11"], "--top 11: the classifier knows 10 classes"),
        ([str(probe), str(photos / "4.png"), str(out)], "1 of 1 samples (100.0%) are bad"),
        ([str(probe), str(tmp_path / "nowhere"), str(out)], "there are no images at"),
        ([str(tmp_path / "nothing"), str(photos), str(out)], "there are no weights at"),
    ):
        assert command.main(arguments) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
        assert not list(tmp_path.glob("*p.csv"))
