"""Float ONNX and TFLite of a PyTorch model: one of timm's by name, or a program that torch.export.save wrote (.pt2)."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lineside.errors import ConfigError
from lineside.hal.artefact import first_line
from lineside.registry import vendor

_OPSET = 17


@dataclass(frozen=True, slots=True)
class Exported:
    """Float files of one model, and how its pictures are prepared where its library says so (options by name)."""

    paths: tuple[Path, ...]
    options: dict[str, object] = field(default_factory=dict)


def export(said: str, size: tuple[int, int] | None, folder: Path) -> Exported:
    """Write model.onnx and, where litert-torch is installed, model.tflite. `said`: "timm:NAME" or the path of a .pt2;
    `size`: width and height, for timm.

    Raises ConfigError for a model that is unknown or that the exporters cannot take.
    """
    torch = vendor("torch")
    options: dict[str, object] = {}
    if said.startswith("timm:"):
        module, shape, options = _timm(said.partition(":")[2], size)
    else:
        module, shape = _program(torch, Path(said))
    sample = torch.zeros(shape)
    paths = [folder / "model.onnx"]
    try:
        torch.onnx.export(
            *(module, (sample,), str(paths[0])),
            **{"dynamo": False, "opset_version": _OPSET, "input_names": ["image"]},
        )
        if find_spec("litert_torch") is not None:
            litert = vendor("litert_torch")
            last = litert.to_channel_last_io(module, args=[0]).eval()  # what LiteRT and the Edge TPU want
            paths.append(folder / "model.tflite")
            litert.convert(last, (sample.permute(0, 2, 3, 1).contiguous(),)).export(str(paths[1]))
    except Exception as error:  # what the exporters raise shares no base
        raise ConfigError(f"{said}: cannot be exported ({first_line(error)}): export it to ONNX yourself") from error
    return Exported(tuple(paths), options)


def _timm(name: str, size: tuple[int, int] | None) -> tuple[Any, tuple[int, ...], dict[str, object]]:
    timm = vendor("timm")
    if not timm.is_model(name):
        raise ConfigError(f"timm:{name}: timm {timm.__version__} has no such model: timm.list_models() has the names")
    try:
        module = timm.create_model(name, pretrained=True, exportable=True).eval()
    except Exception as error:  # the download's errors share no base
        raise ConfigError(f"timm:{name}: its weights cannot be had ({first_line(error)})") from error
    channels, height, width = module.pretrained_cfg["input_size"]
    return module, (1, channels, *(size[::-1] if size else (height, width))), timm_options(module.pretrained_cfg)


def timm_options(cfg: Any) -> dict[str, object]:
    """How timm prepares pictures, in lineside's words: mean and std there are of pixels from 0 to 1."""
    return {
        "color": "rgb",
        "mean": tuple(round(255.0 * value, 4) for value in cfg["mean"]),
        "std": tuple(round(255.0 * value, 4) for value in cfg["std"]),
        "resize": "center_crop",
        "crop_fraction": float(cfg["crop_pct"]),
    }


def _program(torch: Any, path: Path) -> tuple[Any, tuple[int, ...]]:
    if not path.is_file():
        raise ConfigError(f"{path}: model file does not exist")
    try:
        program = torch.export.load(str(path))
        (sample, *more), named = program.example_inputs
    except Exception as error:  # torch.export's errors share no base
        raise ConfigError(
            f"{path}: is no program of torch.export ({first_line(error)}): write it with "
            "torch.export.save(torch.export.export(model.eval(), (sample,)), path)"
        ) from error
    if more or named or sample.ndim != 4:
        raise ConfigError(
            f"{path}: takes {1 + len(more) + len(named)} inputs: lineside feeds one picture, (1, C, H, W)"
        )
    module = program.module()
    module.train = module.eval = lambda *_: module  # an exported program has no other mode, and refuses to be asked
    return module, tuple(sample.shape)
