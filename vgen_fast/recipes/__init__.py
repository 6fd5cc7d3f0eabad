"""Recipes by name: functions that return a Config; the docstring says what it trains, what it costs, what to expect."""

from collections.abc import Callable

from ..config import Config
from . import mocogan, pgan, progressive, shapes, tgan, tgan2, vgan

RECIPES: dict[str, Callable[[], Config]] = {
    "shapes": shapes.shapes,
    "vgan-shapes": shapes.vgan_shapes,
    "shape-motion": shapes.shape_motion,
    "shape-motion-vgan": shapes.shape_motion_vgan,
    "shape-motion-tgan": shapes.shape_motion_tgan,
    "shape-motion-tgan2": shapes.shape_motion_tgan2,
    "shape-motion-mocogan": shapes.shape_motion_mocogan,
    "progressive-ucf101-128": progressive.ucf101_128,
    "progressive-golf-128": progressive.golf_128,
    "progressive-aeroplane-128": progressive.aeroplane_128,
    "progressive-trailerfaces-256": progressive.trailerfaces_256,
    "pgan-billiard-512": pgan.billiard_512,
    "pgan-five-classes-256": pgan.five_classes_256,
    "pgan-sixteen-classes-256": pgan.sixteen_classes_256,
    "pgan-clean-and-jerk-256": pgan.clean_and_jerk_256,
    "pgan-archery-256": pgan.archery_256,
    "vgan-golf": vgan.golf,
    "vgan-golf-one-stream": vgan.golf_one_stream,
    "vgan-golf-prediction": vgan.golf_prediction,
    "vgan-golf-autoencoder": vgan.golf_autoencoder,
    "vgan-ucf101": vgan.ucf101,
    "vgan-ucf101-svc": vgan.ucf101_svc,
    "tgan-ucf101": tgan.ucf101,
    "tgan-ucf101-weight-clip": tgan.ucf101_weight_clip,
    "tgan-ucf101-normal": tgan.ucf101_normal,
    "tgan-ucf101-labels": tgan.ucf101_labels,
    "tgan-ucf101-3d": tgan.ucf101_3d,
    "tgan-golf": tgan.golf,
    "tgan2-ucf101": tgan2.ucf101,
    "tgan2-ucf101-64": tgan2.ucf101_64,
    "tgan2-faceforensics": tgan2.faceforensics,
    "mocogan-shapes": mocogan.shapes,
    "mocogan-ucf101": mocogan.ucf101,
    "mocogan-mug": mocogan.mug,
}
