"""What the settings of nnU-Net's networks come to: a value for each stage and along each axis, as in its plans."""

from __future__ import annotations

from typing import Annotated, NamedTuple, Protocol

from pydantic import Field

from lemis.errors import UsageError

Count = Annotated[int, Field(gt=0, le=4096)]
Along = Annotated[tuple[Count, ...], Field(min_length=1)]  # each axis
PerStage = Count | Along  # one for all stages, or one for each, finest first
PerAxis = Count | Annotated[tuple[Count | Along, ...], Field(min_length=1)]  # likewise, for all axes or along each

MOST_FEATURES = {2: 512, 3: 320}  # by number of dimensions, where the widths are doubled from stage to stage [C]


class HasShape(Protocol):
    """Settings of such a network."""

    @property
    def dims(self) -> int: ...  # noqa: D102
    @property
    def n_stages(self) -> int: ...  # noqa: D102
    @property
    def base_width(self) -> int: ...  # noqa: D102
    @property
    def features_per_stage(self) -> PerStage | None: ...  # noqa: D102
    @property
    def kernel_sizes(self) -> PerAxis: ...  # noqa: D102
    @property
    def strides(self) -> PerAxis | None: ...  # noqa: D102
    @property
    def n_conv_per_stage_decoder(self) -> PerStage: ...  # noqa: D102
    @property
    def conv_bias(self) -> bool: ...  # noqa: D102
    @property
    def norm_eps(self) -> float: ...  # noqa: D102
    @property
    def norm_affine(self) -> bool: ...  # noqa: D102


class Shape(NamedTuple):
    """What settings come to, a value for each stage, finest first, and along each axis."""

    features: tuple[int, ...]
    kernels: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]  # of a stage, not of its map
    decoder_convolutions: tuple[int, ...]  # deepest first


def shape_of(settings: HasShape) -> Shape:
    """What the settings say of each stage.

    Raises:
        UsageError: Numbers that do not go together.
    """
    stages, dims = settings.n_stages, settings.dims
    doubled = tuple(min(settings.base_width * 2**stage, MOST_FEATURES[dims]) for stage in range(stages))
    given = settings.features_per_stage
    kernels = per_axis("kernel_sizes", settings.kernel_sizes, stages, dims)
    if any(side % 2 == 0 for kernel in kernels for side in kernel):
        raise _wrong("kernel_sizes", settings.kernel_sizes, "odd kernels, which keep the size of a map", 3)
    strides = settings.strides if settings.strides is not None else (1, *[2] * (stages - 1))
    by_axis = per_axis("strides", strides, stages, dims)
    if max(by_axis[0]) > 1:
        said = "a first stage of stride 1, so that masks are as large as the image"
        raise _wrong("strides", settings.strides, said, [1, *[2] * (stages - 1)])
    return Shape(
        doubled if given is None else per_stage("features_per_stage", given, stages), kernels, by_axis,
        per_stage("n_conv_per_stage_decoder", settings.n_conv_per_stage_decoder, stages - 1),
    )  # fmt: skip


def per_stage(name: str, value: PerStage, stages: int) -> tuple[int, ...]:
    """A number for each stage.

    Raises:
        UsageError: There are more or fewer.
    """
    found = (value,) * stages if isinstance(value, int) else value
    if len(found) != stages:
        raise _wrong(name, value, f"{stages} numbers, or one for all", [found[-1]] * stages)
    return found


def per_axis(name: str, value: PerAxis, stages: int, dims: int) -> tuple[tuple[int, ...], ...]:
    """A number for each stage and axis.

    Raises:
        UsageError: There are more or fewer.
    """
    found = (value,) * stages if isinstance(value, int) else value
    if len(found) != stages:
        raise _wrong(name, value, f"{stages} stages, or one number for all", [found[-1]] * stages)
    each = tuple((one,) * dims if isinstance(one, int) else one for one in found)
    if any(len(one) != dims for one in each):
        cure = [list(one) if len(one) == dims else [one[-1]] * dims for one in each]
        raise _wrong(name, value, f"{dims} numbers for each stage, along each axis", cure)
    return each


def _wrong(name: str, value: object, allowed: str, cure: object) -> UsageError:
    return UsageError(f"backbone.{name}={_typed(value)}", allowed=allowed, next=f"backbone.{name}={_typed(cure)}")


def _typed(value: object) -> str:
    """As YAML on a command line."""
    return f"[{','.join(map(_typed, value))}]" if isinstance(value, tuple | list) else str(value)
