"""The rules of conversion as a document that a reader can check, made of the tables that conversion uses."""

from __future__ import annotations

from collections.abc import Iterator

from passl_simsiam.checkpoint.layouts import BACKBONES, COUNTER, IGNORED, KINDS, LAYOUTS, MLP, MLPS, Layout

_MODULES = ("stem", "its batch norm", "convolution", "its batch norm", "projection", "its batch norm")
_FIELDS = """Numbers in names: `{s}` the stage from 1, `{b}` the block in its stage from 0, `{n}` the convolution in
its block from 1; `{s1}`, `{s2}`, `{s3}`: s + 1, s + 2, s + 3; `{n0}` the convolution from 0; `{k}` the block counted
through all stages; `{letter}`, `{abc}`: block and convolution as letters; `{i}` a layer from 0, `{i1}` from 1; `{l}`,
`{m}`: 3 i and 3 i + 1."""
_NOTES = f"""Linear weights are [in, out] in Paddle and [out, in] in torch: transposed between the two. Everything else
is copied bit for bit. Running variances are kept as they are, though torch averages unbiased ones and Paddle biased
ones (smaller by (n - 1) / n, n the values of a channel in a batch): evaluation is the same; in further training the
average moves to the framework's own. `{COUNTER}` exists in torch only; a .safetensors file keeps it in its
metadata. Prefixes before all names (`module.`, `model.`, ...) are found. A tensor that no rule names stops the
conversion."""


def document() -> str:
    """All rules, in Markdown."""
    return "\n".join(
        ["# Rules of conversion", "", _NOTES, "", _FIELDS, "", *_kinds(), *_blocks(), *_layouts(), *_ignored()]
    )


def _kinds() -> Iterator[str]:
    yield from ("## Tensors of a module", "", "| module | Paddle | torch |", "|---|---|---|")
    for kind, tensors in KINDS.items():
        for ours, theirs in tensors:
            yield f"| {kind} | `{ours}` | `{theirs}` |"
    yield ""


def _blocks() -> Iterator[str]:
    yield from ("## Names in a ResNet", "", f"| blocks | {' | '.join(_MODULES)} |", "|---" * 7 + "|")
    for name, modules in BACKBONES.items():
        yield f"| {name} | {' | '.join(f'`{module}`' for module in modules)} |"
    yield ""


def _layouts() -> Iterator[str]:
    columns = (
        "format",
        "framework",
        "backbone",
        "blocks",
        "projector",
        "predictor",
        "classifier",
        "written as",
        "read in",
    )
    yield from ("## Formats", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|")
    for layout in LAYOUTS.values():
        cells = (
            layout.name,
            layout.framework,
            f"`{layout.backbone}*`",
            "; ".join(layout.blocks),
            _mlp(layout.neck),
            _mlp(layout.head),
            f"`{layout.classifier}`" if layout.classifier else "-",
            _written(layout),
            layout.source or "this project",
        )
        yield f"| {' | '.join(cells)} |"
    yield ""


def _mlp(mlp: MLP | None) -> str:
    if mlp is None:
        return "-"
    linear, bn, bare = (f"`{mlp.prefix}{name}`" for name in MLPS[mlp.names])
    places = f"{linear}, batch norm {bn}" + (f", without batch norm {bare}" if bare != linear else "")
    bias = {
        "all": "every layer has a bias",
        "last": "only the last layer has a bias",
        "none": "no bias before batch norm",
    }
    return f"{places}; {bias[mlp.bias]}" + ("; the last batch norm has weight and bias" if mlp.affine else "")


def _written(layout: Layout) -> str:
    prefix = f"with `{layout.wrapper}`" if layout.wrapper else ""
    home = f"under `{layout.wraps}`" if layout.wraps else ""
    return " ".join(filter(None, (prefix, home))) or "as it is"


def _ignored() -> Iterator[str]:
    yield from ("## Left out", "", "| tensor | why |", "|---|---|")
    for name, why in IGNORED.items():
        yield f"| `{name}` | {why} |"
    yield ""
