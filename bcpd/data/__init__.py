"""Batches from anywhere: mixtures with their exact p*, and labelled images whose p* is unknown."""

from bcpd.data.augment import NUM_VIEWS, crop_flip, view_numbers
from bcpd.data.batch import Batch
from bcpd.data.cifar import read_cifar
from bcpd.data.digits import digits
from bcpd.data.images import NORMALISATION, Images, Normalisation
from bcpd.data.source import InMemory
from bcpd.data.stratified import stratified_subset

__all__ = [
    "NORMALISATION",
    "NUM_VIEWS",
    "Batch",
    "Images",
    "InMemory",
    "Normalisation",
    "crop_flip",
    "digits",
    "read_cifar",
    "stratified_subset",
    "view_numbers",
]
