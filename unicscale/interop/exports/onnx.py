"""onnx: one graph for onnxruntime and all that reads its format."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from unicscale.interop.exports.portable import answer_names, any_size
from unicscale.interop.exports.target import Target, Wishes
from unicscale.interop.exports.torch_export import program_of
from unicscale.interop.opened import Opened

FILE = "model.onnx"
OPSET = 18


class Onnx(Target):
    """Any batch, any size that the patch divides; positions are resized inside it, as the student does."""

    name, library, projectors, half_computes = "onnx", "onnx", True, True
    needs = ("onnx", "onnxscript", "onnxruntime")

    def write(self, opened: Opened, folder: Path, wishes: Wishes) -> None:
        """model.onnx, and model.onnx.data where it is larger than the format's one file may be."""
        program, names = program_of(opened, wishes)
        with quietly():
            made = torch.onnx.export(
                program, opset_version=OPSET, input_names=["images"], output_names=names, dynamo=True, verbose=False
            )
            assert made is not None
            made.save(folder / FILE)
            if wishes.small is not None and wishes.small.said == "dynamic":
                in_eight_bits(folder / FILE)

    def any_size(self, opened: Opened) -> bool:
        """Where the graph does."""
        return any_size(opened.student.trunk)

    def use(self, opened: Opened, wishes: Wishes) -> str:
        """`onnxruntime.InferenceSession`."""
        cast = ".half()" if wishes.half else ""
        more = answer_names(opened) if wishes.projectors else []
        rest = f"answers = dict(zip({more}, found[2:]))  # as the teachers' own tokens\n" if more else ""
        return (
            "import onnxruntime\n\n"
            f'session = onnxruntime.InferenceSession("DIR/{FILE}", providers=["CPUExecutionProvider"])\n'
            f'found = session.run(None, {{"images": images{cast}.numpy()}})\n'
            f"summary, patches = found[:2]\n{rest}"
        )

    def note(self, opened: Opened) -> str:
        """The opset."""
        sides = ""
        if self.any_size(opened):
            sides = f", and so may the sides, by multiples of {opened.student.trunk.patch}"
        return f"ONNX opset {OPSET}; the batch may change{sides}."


def in_eight_bits(file: Path) -> None:
    """The graph's products of matrices by onnxruntime's own rule, in place."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    small = file.with_name("small.onnx")
    quantize_dynamic(file, small, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"])
    file.with_name(f"{file.name}.data").unlink(missing_ok=True)
    small.replace(file)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """The exporter prints what it is doing, in colours; what fails, it raises."""
    loggers = [
        logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "")
    ]  # "": onnxruntime asks all
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
