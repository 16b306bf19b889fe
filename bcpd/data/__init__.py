"""Batches from anywhere: mixtures with their exact p*, and labelled images whose p* is unknown."""

from bcpd.data.augment import (
    AUGMENTATIONS,
    NUM_VIEWS,
    Augmentation,
    crop_flip,
    cyclic_shift,
    flip,
    num_views,
    view_numbers,
)
from bcpd.data.batch import Batch
from bcpd.data.binary import FIRST_AND_LAST_FIVE, merged_classes
from bcpd.data.cifar import read_cifar
from bcpd.data.cifar10h import HumanLabels, human_mixture, read_cifar10h
from bcpd.data.digits import digits
from bcpd.data.fresh import FreshSamples
from bcpd.data.frozen import relabelled, train_and_fresh
from bcpd.data.image_folder import IMAGENET, BadImage, ImageFolder
from bcpd.data.images import NORMALISATION, Images, Normalisation
from bcpd.data.near_duplicates import NearDuplicates, near_duplicates
from bcpd.data.partial import few_shot, labelled_mask
from bcpd.data.random_resized_crop import RandomResizedCrop
from bcpd.data.source import InMemory
from bcpd.data.stratified import stratified_subset

__all__ = [
    "AUGMENTATIONS",
    "FIRST_AND_LAST_FIVE",
    "IMAGENET",
    "NORMALISATION",
    "NUM_VIEWS",
    "Augmentation",
    "BadImage",
    "Batch",
    "FreshSamples",
    "HumanLabels",
    "ImageFolder",
    "Images",
    "InMemory",
    "NearDuplicates",
    "Normalisation",
    "RandomResizedCrop",
    "crop_flip",
    "cyclic_shift",
    "digits",
    "few_shot",
    "flip",
    "human_mixture",
    "labelled_mask",
    "merged_classes",
    "near_duplicates",
    "num_views",
    "read_cifar",
    "read_cifar10h",
    "relabelled",
    "stratified_subset",
    "train_and_fresh",
    "view_numbers",
]
