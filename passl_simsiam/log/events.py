"""The VisualDL file of a run: scalars, images, histograms and texts, and its continuation after a resume.

VisualDL's own LogWriter writes from a thread that dies on a full disk and then blocks the training loop, and it can
only append. Its file format is simple (little-endian uint64 length, then a protobuf `Record`, repeated), so records
are written here, at once and in the caller's thread, with VisualDL's protobuf definition.
"""

from __future__ import annotations

import io
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from passl_simsiam.log.files import AppendFile

# VisualDL reads files whose name contains "vdlrecords", one a folder; a fixed name continues the same curves.
FILE_NAME = "vdlrecords.log"
_LENGTH = struct.Struct("<Q")


class EventFile:
    """Writes `folder`/vdlrecords.log.

    Args:
        folder: created if absent.
        resume_step: records of later steps are dropped; None starts the file anew.

    Raises:
        ImportError, OSError: VisualDL is not installed, or cannot write its own settings (it does on import).
    """

    def __init__(self, folder: Path, resume_step: int | None) -> None:
        from visualdl.proto.record_pb2 import Record  # half a second: not for every command

        self._record = Record
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE_NAME
        kept = self._kept_length(path, resume_step)
        self._file = AppendFile(path, keep=kept)
        if kept == 0:
            # VisualDL takes a file for its own only if it starts with this record.
            self._add("meta_data_tag", 0, meta_data=Record.MetaData(display_name=""))

    def scalar(self, tag: str, value: float, step: int) -> None:
        self._add(tag, step, value=float(value))

    def image(self, tag: str, image: np.ndarray[Any, Any], step: int) -> None:
        """Add a uint8 image [H, W, C], C = 1, 3 or 4."""
        from PIL import Image

        png = io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(png, format="PNG")
        self._add(tag, step, image=self._record.Image(encoded_image_string=png.getvalue()))

    def histogram(self, tag: str, values: np.ndarray[Any, Any], step: int, bins: int = 30) -> None:
        """Add the histogram of the finite ones among `values` (any shape)."""
        values = np.asarray(values, dtype=np.float64).ravel()
        counts, edges = np.histogram(values[np.isfinite(values)], bins=bins)
        self._add(tag, step, histogram=self._record.Histogram(hist=counts.astype(float), bin_edges=edges))

    def text(self, tag: str, text: str, step: int) -> None:
        self._add(tag, step, text=self._record.Text(encoded_text_string=text))

    def embeddings(self, tag: str, rows: np.ndarray[Any, Any], labels: Sequence[str], step: int) -> None:
        """Add points float [n, d] with a label each, for the page High Dimensional.

        Its format has no thumbnails. The page of VisualDL 2.5.3 stays empty where the label has a header (`label_meta`
        of one column), or where the server was given an absolute --logdir: it then takes the points for the labels.
        """
        embedding = self._record.Embedding
        points = [embedding(label=[label], vectors=row) for label, row in zip(labels, rows.tolist(), strict=True)]
        self._add(tag, step, embeddings=self._record.Embeddings(embeddings=points))

    def _add(self, tag: str, step: int, **payload: Any) -> None:
        value = self._record.Value(id=step, tag=tag, timestamp=round(time.time() * 1000), **payload)
        data = self._record(values=[value]).SerializeToString()
        self._file.append(_LENGTH.pack(len(data)) + data)

    def _kept_length(self, path: Path, resume_step: int | None) -> int:
        """Bytes up to the first record after `resume_step`, or to the first that a killed process cut short."""
        kept = 0
        if resume_step is not None and path.exists():
            for end, data in _whole_records(path):
                if self._record.FromString(data).values[0].id > resume_step:
                    break
                kept = end
        return kept

    def close(self) -> None:
        self._file.close()


def _whole_records(path: Path) -> Iterator[tuple[int, bytes]]:
    """Each whole record's bytes with the offset of its end."""
    end = 0
    with path.open("rb") as file:
        while len(header := file.read(_LENGTH.size)) == _LENGTH.size:
            (length,) = _LENGTH.unpack(header)
            if len(data := file.read(length)) < length:
                return
            end += _LENGTH.size + length
            yield end, data
