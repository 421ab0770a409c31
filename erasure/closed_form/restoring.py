"""Putting back what erasures in front have moved besides their concepts, before the next one is solved for.

Each erasure moves what is preserved a little, and the next one would preserve it where it has come to be: after twenty
of them little is left of it. So the layers' weights, which are now V = W + D with the changes D in front, are first
given a change R for which

    (V + R) p = W p       of what is preserved, p,
    (V + R) h = W t       of a name h that a closed form in front has sent to t, and
    (V + R) o = V o       of names that were erased in other ways, and of those that are to be erased now, o,

in one least-squares system with the weights of UCE (arXiv 2308.14761). With P, H and O the moments of the three,

    R = (W A - D B),    A = sum (t - h) h^T M^-1,    B = (P + H) M^-1,    M = P + H + O + ridge I.

So erasures in a row leave about what one solve for all of them leaves. torch only.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..artifact import Change, Full, LowRank
from .problem import Problem, Scales
from .textmap import moment

SOME = 16
"""By so many weights at most is seen which directions matter; all of them read the same text."""


def restoration(
    problem: Problem, scales: Scales, weights: Mapping[str, torch.Tensor], front: Mapping[str, Change], rank: int
) -> dict[str, Change]:
    """R of each of the ``weights`` V [out, d], of at most that ``rank``; 0 for the exact one.

    ``front``: D of each, none for those that nothing in front has changed. What is cut off is what the preserved and
    the erased encodings lose least by, as seen in some of the weights.
    """
    back = problem.all_erased * scales.preserve * problem.kept
    fixed, goes = problem.moves.moment, torch.zeros_like(back)
    if problem.front is not None:
        back, goes = back + scales.erase * problem.front.moment, scales.erase * problem.front.difference
    if problem.still is not None:
        fixed = fixed + problem.still
    whole = back + scales.erase * fixed
    whole.diagonal().add_(scales.ridge * problem.unit)
    inverse = torch.linalg.inv(whole)
    goes, stays = goes @ inverse, back @ inverse

    def through(name: str, directions: torch.Tensor) -> torch.Tensor:
        """R of a weight times ``directions`` [d, k], float64."""
        weight, change = weights[name].to(goes) @ (goes @ directions), front.get(name)
        if change is None:
            return weight
        more = (goes + stays) @ directions
        if isinstance(change, LowRank):
            return weight - change.up.to(more) @ (change.down.to(more) @ more)
        return weight - change.dense().to(more) @ more

    if not rank:
        return {name: Full(through(name, torch.eye(len(whole)).to(whole)).float().cpu()) for name in weights}
    root = torch.linalg.cholesky(whole)
    some = list(weights)[:: -(-len(weights) // SOME)]
    total = sum((moment(through(name, root)) for name in some), torch.tensor(0.0))
    directions = torch.linalg.eigh(total)[1][:, -rank:]
    down = torch.linalg.solve_triangular(root.T, directions, upper=True).T.float().cpu()
    return {name: LowRank(through(name, root @ directions).float().cpu(), down) for name in weights}
