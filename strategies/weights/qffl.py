"""q-FedAvg: a silo counts more the higher its loss is, p ~ n^(1/temperature) F^q (Li et al. 2020, arXiv 1905.10497).

n is its text in bytes, F the validation bits per byte at the start of the round. The paper divides the sum of F^q Delta
by Lipschitz terms of its own; here the weights add up to 1 and the outer optimizer owns the step. F^q is the paper's
fairness, and no promise: fair federated learning did not leave fewer silos worse than alone in a language task (Iacob
et al., OpenReview 1yaLQb4mIl). Bits per byte differ between scripts for reasons that no training removes: across
scripts see loss_gap.
"""

from __future__ import annotations

from strategies.weights.weight import Seen, Weight, level, power, steepness


def qffl(q: float = 1.0, temperature: float = 1.0) -> Weight:
    """Weigh a silo by its bytes, times its loss to the power ``q``; 0 is ``bytes(temperature)``."""
    steepness("q", q)

    def tilt(seen: Seen) -> list[float]:
        newest = seen.losses[-1] if seen.losses else ()
        highest = max(newest, default=0.0)
        return [(loss / highest) ** q for loss in newest] if highest else level(seen)

    return power("bytes", temperature)._replace(tilt=tilt, needs="loss")
