"""What a strategy is: two halves as tuples of pure functions, and what it declares about itself.

Memory goes in and comes back; nothing is hidden in an object. Strategies are composed by value
(``fedavg()._replace(local=...)``), never by subclass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

from strategies.adapter import CONTROL, Adapter, Array, Layout, initial, part
from strategies.scope import Scope
from strategies.survey import Survey
from strategies.widths import cut

Memory = dict[str, Any]  # name -> array; an empty dict where nothing is remembered


class Weighted(NamedTuple):
    """One silo's contribution, as a gather method sees it."""

    silo: str
    weight: float
    update: Adapter


def every_tensor(name: str, round_number: int) -> bool:
    """Every tensor is trained in every round."""
    return True


def no_memory(adapter: Adapter) -> Memory:
    """Nothing is remembered between rounds."""
    return {}


def gradient_as_is(name: str, gradient: Any, weight: Any, anchor: Any, memory: Memory) -> Any:
    """The gradient is not corrected."""
    return gradient


def delta_as_is(delta: Adapter, memory: Memory) -> Adapter:
    """What is sent is what changed."""
    return delta


def memory_as_was(memory: Memory, sent: Adapter) -> Memory:
    """What arrives changes nothing of what is remembered."""
    return memory


class Local(NamedTuple):
    """The silo half. Plain arithmetic, so that it takes NumPy arrays and Torch tensors alike.

    With ``own_rows`` an update has zeros in the token rows whose tokens the silo's text does not hold.
    """

    init: Callable[[Adapter], Memory] = no_memory
    trainable: Callable[[str, int], bool] = every_tensor
    step: Callable[[str, Any, Any, Any, Memory], Any] = gradient_as_is
    finish: Callable[[Adapter, Memory], Adapter] = delta_as_is
    heard: Callable[[Memory, Adapter], Memory] = memory_as_was
    own_rows: bool = False


def mean_as_is(mean: Adapter, adapter: Adapter, memory: Memory) -> tuple[Adapter, Memory]:
    """The weighted mean of the updates is the step."""
    return mean, memory


def adapter_as_is(adapter: Adapter, memory: Memory) -> Adapter:
    """Silos receive the merged adapter."""
    return adapter


def memory_as_is(adapter: Adapter, memory: Memory) -> Memory:
    """Nothing of the adapter goes into the base."""
    return memory


def nothing_grows(rank: int, silos: int) -> int:
    """There is no merged part."""
    return 0


def narrow_as_is(wide: Array, narrow: Array) -> Array:
    """A silo receives what its narrower group merged."""
    return narrow


class Passes(NamedTuple):
    """A round in two passes, where what silos send second depends on the mean of what they sent first.

    For the silos: ``held(start, delta)`` is what one keeps of its training until it is asked again; ``first(held, size,
    key)`` is what it sends at once, for the tensors that it stands for, ``second(held, asked)`` what it answers. For
    the hub: ``ask(mean)`` is what all are asked, from the mean of the first. Both are linear in ``held``, and an
    adapter can stand in its place: so the hub adds what becomes of the start that it sent to a silo. ``aggregate``
    then sees the mean of ``asked`` and answers together.

    ``size(ranks)`` is the size that silos of these ranks need; ``layouts(shapes, size)`` are the shapes of all that is
    sent, for tensors of these shapes, in the first pass and in the second.
    """

    size: Callable[[list[int]], int]
    layouts: Callable[[Layout, int], tuple[Layout, Layout]]
    held: Callable[[Adapter, Adapter], Adapter]
    first: Callable[[Adapter, int, str], Adapter]
    ask: Callable[[Adapter], Adapter]
    second: Callable[[Adapter, Adapter], Adapter]


class Strategy(NamedTuple):
    """The hub half, its silo half, and what it declares.

    For ``reduction="sum"`` the first argument of ``aggregate`` is the weighted mean of the updates; for
    ``"gather"`` it is a list of ``Weighted``. Either way it returns the step that the outer optimizer takes.
    Both are called once for every group of silos that merge a set of tensors. A part in ``wider`` is merged in that
    wider scope too, as if it were two tensors; a silo receives ``mix(wide, narrow)`` of them.

    Where ``mutates_base`` says so the memory holds a merged part too, sent down by ``broadcast``. ``merge`` adds to it
    what the adapter became in a round; ``growth(rank, silos)`` is by how many ranks it grows in one, at most. The
    parts in ``restarts`` are then made anew by everyone, by ``begin(name, shape, key)``, and so never travel down.
    Those in ``fixed`` are made so once for the study. With a ``survey`` the hub chooses parts before round 1.

    With ``controls`` each shared tensor has a control variate, ``NAME.control`` of its shape and scope. It comes down
    into the memory of the silo half, beside ``rates``, the sums of the learning rates of the round's steps, of LoRA
    pairs and of token rows; ``finish`` returns by how much the silo's own changed, and the hub adds the mean of that
    over all silos. So the silo remembers what the codec let arrive of it: ``heard(memory, sent)``. It is never trained
    and never released.

    Where the ``domain`` is ``core``, a LoRA pair has a tensor ``lora_B.core`` too, a square matrix between its factors.

    With ``mixed_ranks`` a silo may have a lower rank than the study: it receives ``cut(adapter, rank)``, and
    ``aggregate`` sees its update as it came.

    With ``passes`` a round has two of them.
    """

    scopes: dict[str, Scope]
    local: Local = Local()
    init: Callable[[Adapter], Memory] = no_memory
    broadcast: Callable[[Adapter, Memory], Adapter] = adapter_as_is
    aggregate: Callable[[Any, Adapter, Memory], tuple[Adapter, Memory]] = mean_as_is
    reduction: Literal["sum", "gather"] = "sum"
    domain: Literal["factor", "product", "core", "sketch"] = "factor"
    mutates_base: bool = False
    merge: Callable[[Adapter, Memory], Memory] = memory_as_is
    growth: Callable[[int, int], int] = nothing_grows
    restarts: tuple[str, ...] = ()
    begin: Callable[[str, tuple[int, ...], str], Array] = initial
    fixed: tuple[str, ...] = ()
    survey: Survey | None = None
    mixed_ranks: bool = False
    cut: Callable[[Adapter, int], Adapter] = cut
    private_rank: int = 0
    controls: bool = False
    passes: Passes | None = None
    wider: dict[str, Scope] = {}
    mix: Callable[[Array, Array], Array] = narrow_as_is

    def scope(self, name: str) -> Scope:
        """Return the narrowest scope within which a tensor is merged."""
        return self.scopes[part(name)]

    def within(self, name: str) -> tuple[Scope, ...]:
        """Return all scopes within which a tensor is merged, the widest first."""
        wide = self.wider.get(part(name))
        return (wide, self.scope(name)) if wide else (self.scope(name),)

    def beside(self, shared: Iterable[str]) -> dict[str, str]:
        """Return the control variates of these shared tensors, each with the name of its tensor."""
        return {name + CONTROL: name for name in shared} if self.controls else {}

    def sent(self, name: str, round_number: int) -> bool:
        """Return whether a silo sends this tensor in this round."""
        fixed = part(name) == "merged" or self.scope(name) == "silo"
        return not fixed and self.local.trainable(name, round_number)

    def changed(self, name: str, round_number: int) -> bool:
        """Return whether a shared tensor may differ from what silos make themselves before this round begins."""
        if part(name) in ("merged", *self.restarts):
            return part(name) == "merged"
        if self.survey and part(name) in self.survey.parts:
            return True
        return any(self.sent(name, earlier) for earlier in range(1, round_number))

    def renewed(self, adapter: Adapter, seed: int, round_number: int) -> Adapter:
        """Return the adapter as a round begins: what restarts is made anew, the rest is as it was."""
        keys = dict.fromkeys(self.restarts, f"{seed}:{round_number}")
        keys |= dict.fromkeys(self.fixed, str(seed))
        return {
            name: self.begin(name, x.shape, keys[part(name)]) if part(name) in keys else x
            for name, x in adapter.items()
        }
