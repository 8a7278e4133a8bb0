"""Opens a model as on a recorded board, and tells which calls reached the vendor packages, as JSON.

Called as `open_on_board.py BOARD_TREE CACHE_DIR FORMAT=MODEL_FILE...` in a process of its own. Stands at the vendor's
seam: each runtime is the real one, told that the board's accelerators are there; it records what it is asked and runs
on the CPU. `PROVIDERS_FAIL=1` makes ONNX Runtime fall back in silence, as it does when CUDA's libraries are missing.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import ai_edge_litert.interpreter as litert
import onnxruntime
import openvino

from lineside.commands.probe import probe
from lineside.errors import LinesideError
from lineside.hal import board, profile
from lineside.hal.choose import open_backend
from lineside.records import Artefact, InputSpec

CALLS: list[dict[str, Any]] = []
GPU_PROVIDERS = ["TensorrtExecutionProvider", "CUDAExecutionProvider"]


class Session(onnxruntime.InferenceSession):
    def __init__(self, path: str, sess_options: Any, providers: list[Any], disabled_optimizers: Any = None) -> None:
        named = [(one, {}) if isinstance(one, str) else one for one in providers]
        CALLS.append(
            {
                "call": "onnxruntime.InferenceSession",
                "threads": sess_options.intra_op_num_threads,
                "spinning": sess_options.get_session_config_entry("session.intra_op.allow_spinning"),
                "providers": named,
            }
        )
        super().__init__(
            path, sess_options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled_optimizers
        )
        self.claimed = [name for name, _ in named]

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"] if os.environ.get("PROVIDERS_FAIL") else self.claimed


class Core(openvino.Core):
    @property
    def available_devices(self) -> list[str]:
        return ["CPU", "GPU", "NPU"]

    def compile_model(self, model: Any, device: str, config: dict[str, Any]) -> Any:
        CALLS.append({"call": "openvino.Core.compile_model", "device": device, "config": config})
        return super().compile_model(model, "CPU")


class Interpreter(litert.Interpreter):
    def __init__(self, path: str, num_threads: int, experimental_delegates: Any = None) -> None:
        CALLS.append({"call": "Interpreter", "threads": num_threads, "delegates": len(experimental_delegates or ())})
        super().__init__(path, num_threads=num_threads, experimental_delegates=experimental_delegates)


def main() -> None:
    onnxruntime.InferenceSession = Session
    onnxruntime.get_available_providers = lambda: [*GPU_PROVIDERS, "CPUExecutionProvider"]
    openvino.Core = Core
    litert.Interpreter = Interpreter
    root, cache_dir, models = Path(sys.argv[1]), Path(sys.argv[2]), [entry.split("=", 1) for entry in sys.argv[3:]]
    artefacts = [Artefact(path, kind, "int8", "") for kind, path in models]  # type: ignore[arg-type]
    side = 128 if "edgetpu" in dict(models) else 224
    input = InputSpec(side, side, "rgb", "nhwc", (128.0,) * 3, (128.0,) * 3)
    told: dict[str, Any] = {"probe": probe(root), "calls": CALLS}
    matched = profile.match(board.read(root))
    try:
        choice = open_backend(
            artefacts, input, profile=matched, cache_dir=cache_dir, **json.loads(os.environ.get("ASK", "{}"))
        )
        told |= {"name": choice.name, "fallback": choice.fallback, "said": str(choice)}
    except LinesideError as error:
        told |= {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
