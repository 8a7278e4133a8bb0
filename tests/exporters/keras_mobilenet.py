"""Runs inside the venv `tensorflow`: converts a random-weight Keras MobileNetV2 to TFLite, four ways, and classifies.

    python keras_mobilenet.py OUT PICTURE... [--only VARIANT...]

The answers are each file's in TensorFlow's interpreter, behind Keras' preparation: tf.image.resize, preprocess_input.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
import peer
import tensorflow as tf
from PIL import Image

SIZE = 128
CLASSES = 12
SEED = 6


def read(path: Path) -> tf.Tensor:
    """(1, SIZE, SIZE, 3) in -1 to 1, as keras.utils.image_dataset_from_directory and preprocess_input make it."""
    picture = tf.convert_to_tensor(np.asarray(Image.open(path).convert("RGB")))[None]
    small = tf.image.resize(picture, (SIZE, SIZE))
    return keras.applications.mobilenet_v2.preprocess_input(small)


def build(pictures: list[Path]) -> Any:
    """MobileNetV2 whose batch norms know the pictures, and whose last layer gives each of them a class of its own."""
    keras.utils.set_random_seed(SEED)
    net = keras.applications.MobileNetV2((SIZE, SIZE, 3), alpha=0.35, weights=None, classes=CLASSES)
    shown = tf.concat([read(path) for path in pictures], axis=0)
    for layer in net.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
        elif "conv" in layer.name.lower() or "depthwise" in layer.name.lower():  # every filter a blur: see peer.soften
            layer.set_weights([np.broadcast_to(each.mean(axis=(0, 1)), each.shape) for each in layer.get_weights()])
    net(shown, training=True)
    last = net.layers[-1]
    before = keras.Model(net.input, last.input)(shown, training=False).numpy()
    kernel, _ = last.get_weights()
    logits = before @ kernel
    factor = 2.0 / float((logits - logits.mean(axis=0)).std())
    last.set_weights([kernel * factor, -factor * logits.mean(axis=0)])
    return net


def converter(net: Any, pictures: list[Path], how: str) -> Any:
    made = tf.lite.TFLiteConverter.from_keras_model(net)
    if how == "float":
        return made
    made.optimizations = [tf.lite.Optimize.DEFAULT]
    if how == "dynamic-range":
        return made
    made.representative_dataset = lambda: ([read(path)] for path in pictures)
    if how == "int8":
        made.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        made.inference_input_type = made.inference_output_type = tf.int8
    elif how == "uint8":
        made.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        made.inference_input_type = made.inference_output_type = tf.uint8
    elif how == "int16x8":
        wide = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        made.target_spec.supported_ops = [wide]
    elif how == "int16x8-int16":
        wide = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        made.target_spec.supported_ops = [wide]
        made.inference_input_type = made.inference_output_type = tf.int16
    return made


def main(book: peer.Book, pictures: list[Path]) -> None:
    nets: list[Any] = []

    def make(home: Path, how: str) -> peer.Json:
        if not nets:
            nets.append(build(pictures))
        model = home / f"mobilenet_{how}.tflite"
        model.write_bytes(converter(nets[0], pictures, how).convert())
        interpreter = tf.lite.Interpreter(str(model))
        interpreter.allocate_tensors()
        (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()

        def look(path: Path) -> list[float]:
            values = read(path).numpy()
            if taken["dtype"] != np.float32:
                scale, zero = taken["quantization"]
                limits = np.iinfo(taken["dtype"])
                values = np.clip(np.round(values / scale + zero), limits.min, limits.max).astype(taken["dtype"])
            interpreter.set_tensor(taken["index"], values)
            interpreter.invoke()
            raw = interpreter.get_tensor(given["index"])[0]
            if given["dtype"] != np.float32:
                scale, zero = given["quantization"]
                raw = (raw.astype(np.float32) - zero) * scale
            return [float(score) for score in raw]

        quantised = taken["dtype"] in (np.int8, np.uint8)  # the file tells what range its input covers
        return {
            "tool": f"Keras {keras.__version__}, tf.lite of TensorFlow {tf.__version__}",
            "model": model,
            "labels": peer.names(CLASSES),
            "options": ["--resize", "stretch"] + ([] if quantised else ["--mean", "127.5", "--std", "127.5"]),
            "filter": "linear",
            "pipeline": "tf.image.resize, preprocess_input, TensorFlow's interpreter",
            "photos": peer.answered(pictures, look),
            "sized": peer.answered(peer.sized(pictures, home, SIZE, SIZE), look),
        }

    for how in ("float", "dynamic-range", "int8", "uint8", "int16x8", "int16x8-int16"):
        book.add(f"mobilenet-{how}", lambda home, how=how: make(home, how))


if __name__ == "__main__":
    main(*peer.arguments())
