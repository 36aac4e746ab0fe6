"""Settings of a teacher of codes: their schema, and checks of their values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from streamnest.encoder.config import training_field
from streamnest.errors import UserError
from streamnest.quantizer import TargetConfig

_MAX_LAYER = 512


@dataclass
class TeacherConfig(TargetConfig):
    """Schema of `quantizer=teacher`.

    Attributes:
        num_codebooks: a multiple of the number of layers; codebook i belongs to layer `i % layers`.
        checkpoint: checkpoint of the teacher; only the command `train` reads it.
        layer: layer, or list of layers; 0 is the output of the subsampling, n that of Conformer layer n.
        width: width of the teacher, which `train` takes from the checkpoint.
        context: name of a context of a dynamic teacher; None is the default one.
        code_dim: number of principal directions that are clustered; None is all dimensions.
        standardize: divide each dimension by its standard deviation before clustering.
        cache: folder of cached codes; "auto" is a folder in the cache of streamnest, None turns it off.
    """

    _target_: str = "streamnest.targets.TeacherQuantizer"
    num_classes: int = 256
    checkpoint: str | None = training_field(None)
    layer: Any = 3
    width: int | None = None
    context: str | None = None
    code_dim: int | None = None
    standardize: bool = True
    cache: str | None = training_field("auto")


def checked_layers(layer: Any) -> tuple[int, ...]:
    """Returns the layers of a config, in ascending order.

    Raises:
        UserError: for anything but a number or a list of different numbers from 0.
    """
    layers = list(layer) if isinstance(layer, (list, tuple)) else [layer]
    valid = all(type(one) is int and 0 <= one <= _MAX_LAYER for one in layers)
    if not layers or not valid or sorted(set(layers)) != layers:
        raise UserError(
            f"quantizer.layer={layer!r}: give a layer, or an ascending list of layers, from 0 (subsampling) to the "
            "number of layers of the teacher"
        )
    return tuple(layers)


def check_sizes(
    stack: int, num_classes: int, num_codebooks: int, layers: int, width: int, code_dim: int | None
) -> None:
    """Checks the sizes of a `TeacherQuantizer` of some number of layers of a width.

    Raises:
        UserError: for values out of range.
    """
    sizes = {"stack": stack, "num_codebooks": num_codebooks, "num_classes - 1": num_classes - 1}
    for name, value in {**sizes, "code_dim": 1 if code_dim is None else code_dim}.items():
        if value < 1:
            raise UserError(f"quantizer.{name}={value} must be at least 1")
    if num_codebooks % layers:
        raise UserError(
            f"quantizer.num_codebooks={num_codebooks} must be a multiple of the {layers} layers of "
            f"quantizer.layer: set it to {layers} for one codebook per layer"
        )
    if code_dim is not None and code_dim > width:
        raise UserError(f"quantizer.code_dim={code_dim} is more than the teacher's width {width}: lower it")
