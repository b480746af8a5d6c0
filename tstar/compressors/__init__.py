"""Compressors: patch tokens of clips to visual tokens. One table from names to settings."""

import dataclasses
from typing import Any

from tstar.compressors.base import Compressor, CompressorConfig
from tstar.compressors.c_abstractor import CAbstractorConfig
from tstar.compressors.gpt_neox import BiGPTNeoXConfig, GPTNeoXConfig
from tstar.compressors.mambamia import BiMambaConfig, BimbaConfig, MambaConfig, MambaMiaConfig, TimeAxisMambaMiaConfig
from tstar.compressors.pooling import AveragePoolingConfig, BilinearConfig, Pooling3DConfig
from tstar.compressors.resampler import Resampler2DConfig, Resampler3DConfig
from tstar.compressors.token_clustering import DensityPeaksConfig, KMeansConfig, TokenMergingConfig
from tstar.compressors.uncompressed import UncompressedConfig
from tstar.errors import ConfigError, suggest

__all__ = [
    "COMPRESSORS",
    "Compressor",
    "CompressorConfig",
    "build_compressor",
    "compressor_config",
    "compressor_options",
    "list_compressors",
    "shared_options",
]

COMPRESSORS: dict[str, type[CompressorConfig]] = {
    "avg_pool": AveragePoolingConfig,
    "bi_gpt_neox": BiGPTNeoXConfig,
    "bilinear": BilinearConfig,
    "bimamba": BiMambaConfig,
    "bimba": BimbaConfig,
    "c_abstractor": CAbstractorConfig,
    "density_peaks": DensityPeaksConfig,
    "gpt_neox": GPTNeoXConfig,
    "kmeans": KMeansConfig,
    "mamba": MambaConfig,
    "mambamia": MambaMiaConfig,
    "mambamia_taa": TimeAxisMambaMiaConfig,
    "none": UncompressedConfig,
    "pool3d": Pooling3DConfig,
    "resampler2d": Resampler2DConfig,
    "resampler3d": Resampler3DConfig,
    "token_merging": TokenMergingConfig,
}
"""Settings of every compressor by name."""

_GIVEN = ("d_vision", "d_language", "grid")


def list_compressors() -> list[str]:
    """Names that :func:`build_compressor` knows, sorted."""
    return sorted(COMPRESSORS)


def compressor_options(name: str, preset: str = "paper") -> dict[str, Any]:
    """Options of a compressor and their values in a preset.

    Raises:
        ConfigError: unknown name or preset.
    """
    config_class = _config_class(name)
    fields = [f for f in dataclasses.fields(config_class) if f.init and f.name not in _GIVEN]
    return {f.name: f.default for f in fields} | _preset(config_class, preset)


def shared_options(one: str, other: str) -> set[str]:
    """Options that mean the same in two compressors: those that their settings inherit from one class; none of an unknown one."""
    if one not in COMPRESSORS or other not in COMPRESSORS:
        return set()
    ours, theirs = ({f.name: f for f in dataclasses.fields(COMPRESSORS[name])} for name in (one, other))
    return {name for name, field in ours.items() if theirs.get(name) is field}  # an inherited field is its parent's


def compressor_config(
    name: str, *, d_vision: int, d_language: int, grid: tuple[int, int], preset: str = "paper", **options: Any
) -> CompressorConfig:
    """Checked settings of a compressor; arguments and errors as in :func:`build_compressor`."""
    known = compressor_options(name, preset)
    for option in options:
        if option not in known:
            raise ConfigError(f"unknown option compressor.{option} of compressor '{name}'{suggest(option, known)}")
    return COMPRESSORS[name](d_vision=d_vision, d_language=d_language, grid=grid, **(known | options))


def build_compressor(
    name: str, *, d_vision: int, d_language: int, grid: tuple[int, int], preset: str = "paper", **options: Any
) -> Compressor:
    """A compressor with fresh weights.

    Args:
        name: one of :func:`list_compressors`.
        d_vision: width of a patch token.
        d_language: width of a visual token.
        grid: rows and columns of a frame's patch tokens.
        preset: scale that gives the options their values: ``paper`` (about 100M parameters where the published comparison
            has them), ``miniature`` or ``tiny`` (for tests); Mamba compressors also have ``wide2``, two wide Mamba-2
            layers, and ``c_abstractor`` has ``paper_30m``.
        options: values that win over the preset's; :func:`compressor_options` lists them.

    Raises:
        ConfigError: unknown name, preset or option, or a value that cannot work.
    """
    return compressor_config(
        name, d_vision=d_vision, d_language=d_language, grid=grid, preset=preset, **options
    ).build()


def _config_class(name: str) -> type[CompressorConfig]:
    if name not in COMPRESSORS:
        raise ConfigError(f"unknown compressor '{name}'{suggest(name, COMPRESSORS)}")
    return COMPRESSORS[name]


def _preset(config_class: type[CompressorConfig], preset: str) -> dict[str, Any]:
    if preset not in config_class.PRESETS:
        raise ConfigError(f"unknown compressor.preset '{preset}'{suggest(preset, config_class.PRESETS)}")
    return dict(config_class.PRESETS[preset])
