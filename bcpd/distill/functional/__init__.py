"""Distillation losses as pure functions of tensors.

Losses of logits and of feature maps return one value per example and the caller reduces; relational losses return one
per batch (and replica). All take the student first, no gradient through the teacher, and compute in float32 at least.
"""

from bcpd.distill.functional.contrast import (
    class_groups,
    contrastive,
    draw_negatives,
    draw_positives,
    log_normaliser,
    memory_scores,
    remembered,
)
from bcpd.distill.functional.features import attention_transfer, hint, same_size, variational_information
from bcpd.distill.functional.logits import dkd, kd
from bcpd.distill.functional.precision import full_precision, unit
from bcpd.distill.functional.reduce import masked_mean
from bcpd.distill.functional.relations import (
    correlation_congruence,
    probabilistic_knowledge_transfer,
    relational_angle,
    relational_distance,
    similarity_preserving,
)
from bcpd.distill.functional.review import hierarchical_context
from bcpd.distill.functional.rotations import TURNS, joint_labels, rotated

__all__ = [
    "TURNS",
    "attention_transfer",
    "class_groups",
    "contrastive",
    "correlation_congruence",
    "dkd",
    "draw_negatives",
    "draw_positives",
    "full_precision",
    "hierarchical_context",
    "hint",
    "joint_labels",
    "kd",
    "log_normaliser",
    "masked_mean",
    "memory_scores",
    "probabilistic_knowledge_transfer",
    "relational_angle",
    "relational_distance",
    "remembered",
    "rotated",
    "same_size",
    "similarity_preserving",
    "unit",
    "variational_information",
]
