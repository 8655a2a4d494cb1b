"""The student's N gradient steps on the synthetic images, and the gradient of a score of where they lead.

A student starts at parameters θ_0 and takes the steps ``u_{i+1} = μ u_i + g_i``, ``θ_{i+1} = θ_i − β_i u_{i+1}``, where
``g_i`` is the slope at θ_i of the soft-label cross-entropy of step i's batch of synthetic images. A *score* maps the
parameters after the steps that it asked for to a scalar. Its gradient with respect to images, label logits and step
sizes is computed by a strategy:

``full``        keeps the graph of all steps, as public trajectory-matching code does; memory is linear in N.
``adjoint``     keeps only states θ_i, not even all of them, and carries cotangents backwards, step by step: the same
                gradient to rounding.
``two-pass``    takes the states at which slopes are taken as constants (TESLA, Cui et al. 2023, arXiv 2211.10586).
``Truncated``   takes the slopes of all but K steps as constants.

S students may be unrolled side by side on one synthetic set; the gradient is that of their mean score.

``types``     what goes in and what comes out
``stacked``   S students' states and batches as tensors with a leading dimension S
``step``      slopes and curvature of one step, by automatic differentiation and by hand
``graph``     the strategy that keeps all graphs
``adjoint``   the strategies that carry cotangents
``stretches`` which states they keep
``memory``    how many students fit at once
``trial``     whether a GPU's kernels serve
``together``  the entry points
"""

from meddistill.distill.unroll.together import unroll, unroll_many
from meddistill.distill.unroll.types import (
    PRECISIONS,
    STRATEGIES,
    Batch,
    Learned,
    Network,
    Outcome,
    Outcomes,
    Precision,
    Rule,
    Score,
    Strategy,
    Student,
    Truncated,
)

__all__ = [
    "PRECISIONS",
    "STRATEGIES",
    "Batch",
    "Learned",
    "Network",
    "Outcome",
    "Outcomes",
    "Precision",
    "Rule",
    "Score",
    "Strategy",
    "Student",
    "Truncated",
    "unroll",
    "unroll_many",
]
