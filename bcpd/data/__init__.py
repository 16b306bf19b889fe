"""Batches from anywhere: mixtures with their exact p*, and labelled images whose p* is unknown."""

from bcpd.data.augment import NUM_VIEWS, crop_flip, view_numbers
from bcpd.data.batch import Batch
from bcpd.data.images import NORMALISATION, Images, Normalisation
from bcpd.data.source import InMemory

__all__ = ["NORMALISATION", "NUM_VIEWS", "Batch", "Images", "InMemory", "Normalisation", "crop_flip", "view_numbers"]
