"""Every bundle under models/: whole, licensed, described, and answering its golden pictures on each backend here.

Full-integer TFLite files hold only what the Edge TPU's compiler maps; of others the card names what stays on the CPU.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgetpu_operators import UNTABLED, is_full_integer, left_on_cpu
from lineside.commands.infer import Eye
from lineside.errors import LinesideError
from lineside.golden import differences
from lineside.hal.choose import installed
from lineside.registry import driver
from lineside.resources import shipped
from lineside.store import passport
from lineside.store.bundle import open_bundle

FOLDERS = sorted(manifest.parent for manifest in shipped("models").glob("*/model.toml"))
MAX_BYTES = 8_000_000
pytestmark = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


def test_a_bundle_names_its_licence_and_has_a_card(folder: Path) -> None:
    bundle = open_bundle(folder)
    assert bundle.name == folder.name
    assert bundle.licence not in ("", "not stated")
    assert (folder / "LICENSE").read_text().strip()
    card = (folder / "card.md").read_text()
    assert card.startswith(f"# {bundle.name}\n")
    assert all(word in card.lower() for word in ("licen", "95", "## limits"))
    assert [path.name for path in folder.rglob("*") if path.stat().st_size > MAX_BYTES] == []


def test_a_bundle_answers_its_golden_pictures_on_each_backend(folder: Path) -> None:
    bundle = open_bundle(folder)
    assert bundle.golden is not None, "no golden answers"
    answered = set()
    for artefact in bundle.artefacts:
        for backend in installed():
            if artefact.format not in driver("backend", backend).formats("cpu"):
                continue
            try:
                eye = Eye(replace(bundle, artefacts=(artefact,)), backend, None, threads=1)
            except LinesideError:
                continue  # OpenVINO does not take every TFLite file
            assert differences(bundle, eye.file, eye.look, eye.settings.min_score) == [], (eye.file, backend)
            answered.add((eye.file, backend))
    runs = {"onnx": "onnxruntime", "tflite": "litert", "openvino": "openvino"}
    assert answered >= {(Path(each.path).name, runs[each.format]) for each in bundle.artefacts}


def test_a_bundle_carries_a_passport_of_each_file(folder: Path) -> None:
    bundle = open_bundle(folder)
    assert bundle.parity_sha256 is not None
    found = passport.read(folder, bundle.parity_sha256)
    assert found.reference.is_fp32
    assert {row.file for row in found.rows} == {Path(each.path).name for each in bundle.artefacts}


def test_the_edge_tpu_maps_a_full_integer_file_and_the_card_names_what_it_leaves_of_others(folder: Path) -> None:
    card = (folder / "card.md").read_text()
    for artefact in open_bundle(folder).artefacts:
        if artefact.format != "tflite":
            continue
        left = left_on_cpu(Path(artefact.path))
        print(f"{folder.name}: {Path(artefact.path).name} leaves on the CPU: {left or 'nothing'}")
        if is_full_integer(Path(artefact.path)) and artefact.precision == "int8":
            assert left == {}, artefact.path
            continue
        untabled = [name for name, why in left.items() if why == UNTABLED and name not in card]
        assert untabled == [], f"card.md does not name what stays on the CPU beside an Edge TPU: {left}"
        assert "float" in card or not any("FLOAT" in why for why in left.values()), left
