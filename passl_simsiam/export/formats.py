"""The two formats: how each is written and how it is run."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from passl_simsiam.errors import UserError
from passl_simsiam.export.network import INPUT, Exported, Network, input_spec
from passl_simsiam.export.quiet import quiet

Array = np.ndarray[Any, Any]
Run = Callable[[Array], Array]

MODEL = "model"  # the files' name before the suffix
OPSET = 17  # the newest that ONNX Runtime has read since 1.12 (2022)


class Format(ABC):
    """One format.

    Attributes:
        needs: packages beyond those that the project always has.
        output: the output's name in the written model; None: that of the network.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    output: ClassVar[str | None] = None

    def require(self) -> None:
        """Raise UserError unless the packages that this format needs are there."""
        missing = [package for package in self.needs if importlib.util.find_spec(package) is None]
        if missing:
            raise UserError(f"format {self.name} needs {' and '.join(missing)}: pip install 'passl_simsiam[onnx]'")

    @abstractmethod
    def write(self, network: Network, raw: bool, folder: Path) -> None:
        """Write the model's files into `folder`. Raises UserError when the network cannot be had in this format."""

    @abstractmethod
    def open(self, folder: Path) -> Run:
        """The written model as a function from an input batch to its outputs, on one CPU thread."""


class Paddle(Format):
    """model.json (the program) and model.pdiparams (the weights), for paddle.inference and paddle.jit.load."""

    name = "paddle"
    output = "fetch_name_0"  # Paddle 3 numbers the outputs and takes no name for them

    def write(self, network: Network, raw: bool, folder: Path) -> None:
        import paddle

        try:
            with quiet():
                paddle.jit.save(Exported(network, raw), str(folder / MODEL), input_spec=[input_spec(network, raw)])
        except Exception as error:  # a layer of the user's own may do what a static program cannot
            raise UserError(f"Paddle cannot make a static program of the network: {_first_line(error)}") from error

    def open(self, folder: Path) -> Run:
        from paddle import inference

        config = inference.Config(str(folder / f"{MODEL}.json"), str(folder / f"{MODEL}.pdiparams"))
        config.disable_gpu()
        config.disable_glog_info()
        config.set_cpu_math_library_num_threads(1)
        predictor = inference.create_predictor(config)
        images, output = predictor.get_input_handle(INPUT), predictor.get_output_handle(self.output)

        def run(batch: Array) -> Array:
            images.copy_from_cpu(np.ascontiguousarray(batch))
            predictor.run()
            return output.copy_to_cpu()

        return run


class Onnx(Format):
    """model.onnx, of the program that `Paddle` writes."""

    name = "onnx"
    needs = ("paddle2onnx", "onnx", "onnxruntime")

    def write(self, network: Network, raw: bool, folder: Path) -> None:
        import onnx
        import paddle2onnx

        program = [folder / f"{MODEL}.json", folder / f"{MODEL}.pdiparams"]
        kept = program[0].exists()
        if not kept:
            Paddle().write(network, raw, folder)
        try:
            with quiet():
                # The default optimize_tool installs packages from the network while it runs.
                data = paddle2onnx.export(*map(str, program), opset_version=OPSET, optimize_tool="None")
            model = onnx.load_model_from_string(data)
            _rename(model, network.output)
            onnx.checker.check_model(model, full_check=True)
        except Exception as error:  # paddle2onnx logs its reason and then fails on a variable it never set
            raise UserError(f"paddle2onnx cannot convert the network: {_first_line(error)}") from error
        finally:
            for file in () if kept else program:
                file.unlink()
        onnx.save(model, str(folder / f"{MODEL}.onnx"))

    def open(self, folder: Path) -> Run:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        path = folder / f"{MODEL}.onnx"
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda batch: session.run(None, {INPUT: batch})[0]


FORMATS: dict[str, Format] = {each.name: each for each in (Paddle(), Onnx())}


def _rename(model: Any, output: str) -> None:
    """Say what the converter leaves nameless: the output and the batch axis; leave out what nobody reads."""
    graph, (result,) = model.graph, model.graph.output
    for node in graph.node:
        for index, name in enumerate(node.output):
            if name == result.name:
                node.output[index] = output
    result.name = output
    for value in (*graph.input, result):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    read = {output, *(name for node in graph.node for name in node.input)}
    for node in [node for node in graph.node if not read.intersection(node.output)]:
        graph.node.remove(node)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]
