"""Runs inside the venv `tensorflow`: exports random-weight detectors with TensorFlow Model Garden's TFLite exporter.

    python tf_ssd.py OUT PICTURE... [--only VARIANT...]

The exporter ends the graph in TFLite_Detection_PostProcess, which TensorFlow cannot run. So the same weights are built
a second time with Model Garden's own preparation, decoding and suppression, and that says what is to be found.
Writes OUT/<variant>/model.tflite and OUT/expected.json.
"""

from __future__ import annotations

import functools
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np
import peer
import tensorflow as tf
import tf_keras
from official.core import exp_factory
from official.vision import registry_imports  # noqa: F401  # registers the experiments
from official.vision.ops import preprocess_ops
from official.vision.serving import export_saved_model_lib, export_tflite_lib
from official.vision.serving.detection import DetectionModule
from PIL import Image

SIZE = 256
CLASSES = 6  # the first is background
SEED = 5
CANDIDATES = 40  # in every picture, at least
LABELS = ["background", *(f"thing {number}" for number in range(1, CLASSES))]
MIN_SCORE, MAX_IOU, MAX_FOUND = 0.3, 0.5, 100
# variant -> whether the exporter writes boxes as 0 to 1 of the picture, or in pixels of the input (its default)
VARIANTS = {"ssd-unit": True, "ssd-pixels": False}


def configuration(nms: str, unit: bool) -> Any:
    """A small RetinaNet on MobileNetV2; suppression per class in both worlds, with the same thresholds."""
    params = exp_factory.get_exp_config("retinanet_mobile_coco")
    model = params.task.model
    model.override(
        {
            "num_classes": CLASSES,
            "input_size": [SIZE, SIZE, 3],
            "backbone": {"type": "mobilenet", "mobilenet": {"model_id": "MobileNetV2", "filter_size_scale": 0.5}},
            "decoder": {"type": "fpn", "fpn": {"num_filters": 48, "use_separable_conv": True}},
            "head": {"num_convs": 2, "num_filters": 48, "use_separable_conv": True},
            "norm_activation": {"use_sync_bn": False, "activation": "relu6"},
            "detection_generator": {
                "nms_version": nms,
                "pre_nms_score_threshold": MIN_SCORE,
                "nms_iou_threshold": MAX_IOU,
                "max_num_detections": MAX_FOUND,
                "tflite_post_processing": {
                    "max_detections": MAX_FOUND,
                    "detections_per_class": MAX_FOUND,
                    "max_classes_per_detection": 1,
                    "use_regular_nms": True,
                    "nms_score_threshold": MIN_SCORE,
                    "nms_iou_threshold": MAX_IOU,
                    "normalize_anchor_coordinates": unit,
                },
            },
        },
        is_strict=False,
    )
    params.task.train_data.parser.keep_aspect_ratio = False
    return params


def module(nms: str, unit: bool, input_type: str) -> DetectionModule:
    params = configuration(nms, unit)
    return DetectionModule(
        params=params, batch_size=1, input_image_size=[SIZE, SIZE], input_type=input_type, num_channels=3
    )


def liven(net: Any, pictures: tf.Tensor) -> None:
    """Give random weights what training would: activations that depend on the picture, and a few sure boxes.

    The statistics of the batch norms are taken from the pictures; then the last layers are scaled so that in every
    picture scores lie on both sides of MIN_SCORE and none is 1. The background never wins, as in a trained model.
    """
    for layer in net.submodules:
        if hasattr(layer, "moving_mean"):
            layer.momentum = 0.0  # the last batch is all that counts
    answers(net, pictures, training=True)
    scores, boxes = answers(net, pictures, training=False)
    classifier, regressor = net.head._classifier, net.head._box_regressor
    best = tf.reduce_max(scores[..., 1:], axis=-1)  # (pictures, anchors)
    low = float(tf.reduce_min(tf.math.top_k(best, CANDIDATES).values[:, -1]))
    stretch(classifier, 4.0 / (float(tf.reduce_max(best)) - low), low, -0.8)  # -0.8: a score of 0.31
    classifier.bias.assign(tf.where(tf.range(classifier.bias.shape[0]) % CLASSES == 0, -50.0, classifier.bias))
    stretch(regressor, 0.3 / float(tf.math.reduce_std(boxes)), tf.reduce_mean(boxes, axis=(0, 1))[None], 0.0)
    sides = tf.range(regressor.bias.shape[0]) % 4 >= 2
    regressor.bias.assign_add(tf.where(sides, -1.0, 0.0))  # smaller than their anchors: few reach over the edge


def answers(net: Any, pictures: tf.Tensor, training: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """Scores before their sigmoid, (pictures, anchors, classes), and box offsets, (pictures, anchors, 4)."""
    features = net.decoder(net.backbone(pictures, training=training), training=training)
    scores, boxes, _ = net.head(features, training=training)
    count = pictures.shape[0]
    return (
        tf.concat([tf.reshape(each, (count, -1, CLASSES)) for each in scores.values()], axis=1),
        tf.concat([tf.reshape(each, (count, -1, 4)) for each in boxes.values()], axis=1),
    )


def stretch(layer: Any, factor: float, old: Any, new: float) -> None:
    """Change a separable convolution so that its output y becomes new + factor * (y - old)."""
    layer.pointwise_kernel.assign(layer.pointwise_kernel * factor)
    repeated = tf.reshape(tf.repeat(tf.reshape(old, (1, -1)), layer.bias.shape[0] // np.size(old), axis=0), -1)
    layer.bias.assign(new + factor * (layer.bias - repeated))


def read(path: Path) -> tf.Tensor:
    return tf.convert_to_tensor(np.asarray(Image.open(path).convert("RGB")))[None]


def found(detections: dict[str, Any]) -> list[dict[str, Any]]:
    """What Model Garden finds in one picture, best score first; boxes in pixels of the picture."""
    count = int(detections["num_detections"][0])
    scale_y, scale_x = detections["image_info"][0, 2].numpy()  # input pixels per picture pixel
    rows = zip(
        detections["detection_boxes"][0][:count].numpy(),
        detections["detection_scores"][0][:count].numpy(),
        detections["detection_classes"][0][:count].numpy(),
        strict=True,
    )
    return [
        {
            "class_id": int(class_id),
            "label": LABELS[int(class_id)],
            "score": float(score),
            "box": [float(x1 / scale_x), float(y1 / scale_y), float(x2 / scale_x), float(y2 / scale_y)],
        }
        for (y1, x1, y2, x2), score, class_id in rows
    ]


def main(book: peer.Book, pictures: list[Path]) -> None:
    @functools.cache
    def prepared() -> tuple[str, Any, Any]:
        """A checkpoint, and what Model Garden finds with it in the photos and in pictures of the model's size."""
        tf_keras.utils.set_random_seed(SEED)
        net = module("v2", True, "image_tensor")
        small = peer.sized(pictures, book.out, SIZE, SIZE)
        net.serve(read(small[0]))  # layers make their weights when they are first used
        liven(net.model, tf.concat([net.preprocess(read(path))[0] for path in small], axis=0))
        checkpoint = tf.train.Checkpoint(model=net.model).save(str(book.out / "checkpoint" / "weights"))

        def look(path: Path) -> list[dict[str, Any]]:
            return found(net.serve(read(path)))

        return checkpoint, peer.answered(pictures, look), peer.answered(small, look)

    def make(home: Path, unit: bool) -> peer.Json:
        checkpoint, photos, sized = prepared()
        saved = home / "saved"
        export_saved_model_lib.export_inference_graph(
            input_type="tflite",
            batch_size=1,
            input_image_size=[SIZE, SIZE],
            params=configuration("tflite", unit),
            checkpoint_path=checkpoint,
            export_dir=str(saved),
        )
        model = home / "model.tflite"
        model.write_bytes(export_tflite_lib.convert_tflite_model(saved_model_dir=str(saved)))
        mean, std = (",".join(map(str, each)) for each in (preprocess_ops.MEAN_RGB, preprocess_ops.STDDEV_RGB))
        return {
            "tool": f"tf-models-official {version('tf-models-official')}, TensorFlow {tf.__version__}",
            "model": model,
            "labels": LABELS,
            "options": ["--mean", mean, "--std", std, "--min-score", str(MIN_SCORE)],
            "min_score": MIN_SCORE,
            # Model Garden cuts boxes at the edge before suppression, TFLite's operator never does: overlaps differ
            "edges": "left out",
            "pipeline": "Model Garden's own preparation, decoding and suppression",
            "photos": photos,
            "sized": sized,
        }

    for variant, unit in VARIANTS.items():
        book.add(variant, functools.partial(make, unit=unit))


if __name__ == "__main__":
    main(*peer.arguments())
