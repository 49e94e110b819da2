"""One paragraph under exploration: the state, what is measured in it, and the states tried before."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from memhooks.errors import InputError
from memhooks.explorer import measured
from memhooks.explorer.measured import Measured, Suggestion
from memhooks.explorer.snippet import snippet
from memhooks.explorer.state import How, State
from memhooks.model.loading import HookedModel
from memhooks.model.means import ActivationMeans, activation_means
from memhooks.model.provenance import model_hash
from memhooks.model.watched import refuse_hooks
from memhooks.paragraphs.paragraphs import Paragraphs


@dataclass(frozen=True)
class Tried:
    """A state that was measured, and its EM and NLL."""

    state: State
    exact_match: int
    mean_nll: float


@dataclass(frozen=True)
class Rest:
    """What takes longer than EM and NLL.

    Attributes:
        said: the model's own greedy continuation.
        control_rise: of each control paragraph, changed minus untouched, in nats per token; None without a control.
    """

    said: Int[Tensor, " n_continuation"]
    control_rise: Float[Tensor, " paragraph"] | None


class Exploration:
    """Changes to one paragraph and to the heads that read it, each measured at once.

    Nothing is changed on the model itself. A change that cannot be made is an `InputError`, and the state
    stays what it was.

    Attributes:
        paragraph: the one that is explored.
        control: other paragraphs of the same shape, to which the same is done; or None.
        state: what is changed now.
        found: what is measured now.
        untouched: what is measured without any change.
        control_python: how the control is had in Python, for the snippet.
        tried: every state so far, each once, the untouched one first.
        latest_rest: what `rest` found in this state, if it was asked.
    """

    def __init__(
        self,
        model: HookedModel,
        paragraph: Paragraphs,
        *,
        control: Paragraphs | None = None,
        control_python: str = "control",
        seed: int = 0,
    ) -> None:
        self.model, self.paragraph, self.seed = model, paragraph, seed
        self.control, self.control_python = control, control_python
        self.tried: list[Tried] = []
        self._start()

    def replace(self, position: int, token: int | str) -> None:
        """Put another token in the prefix: an id, or a text that is one token.

        Raises:
            InputError: no such position or token, or a text of several tokens.
        """
        self._check_position(position)
        new = measured.token_of(self.model, token) if isinstance(token, str) else token
        if not 0 <= new < self.model.cfg.d_vocab:
            raise InputError(f"token ids must lie in 0..{self.model.cfg.d_vocab - 1}, got {new}")
        own = int(self.paragraph.tokens[0, position])
        self.go_to(self.state.without_token(position) if new == own else self.state.with_token(int(position), int(new)))

    def undo(self, position: int) -> None:
        """Put the text's own token back.

        Raises:
            InputError: no such position.
        """
        self._check_position(position)
        self.go_to(self.state.without_token(position))

    def toggle(self, heads: Iterable[tuple[int, int]]) -> None:
        """Silence these (layer, head), or let them work again if all of them are silent.

        Raises:
            InputError: the model has no such head.
        """
        self.go_to(self.state.toggled((int(layer), int(head)) for layer, head in heads))

    def toggle_layer(self, layer: int) -> None:
        """The same for all heads of a layer."""
        self.toggle((layer, head) for head in range(self.model.cfg.n_heads))

    def silence_by(self, how: How) -> None:
        """Put zero in place of what silenced heads do, or their mean over the control.

        Raises:
            InputError: another way, or the mean without a control.
        """
        if how not in ("zero", "mean"):
            raise InputError(f"how must be 'zero' or 'mean', got {how!r}")
        if how == "mean" and self.control is None:
            raise InputError("the mean is taken over the control; give one: explore(model, paragraph, control=...)")
        self.go_to(self.state.by(how))

    def reset(self) -> None:
        """Take every change back."""
        self.go_to(State(how=self.state.how))

    def go_to(self, state: State) -> None:
        """Measure a state and stay there; where that fails, nothing has changed.

        Raises:
            InputError: a hook of somebody else's is on the model, or as `ablated`.
        """
        refuse_hooks(self.model)
        if model_hash(self.model) != self._weights:
            self._start()  # what was measured before is of another model
        found = measured.measure(self.model, self.paragraph, state, means=self._means_for(state))
        self.state, self.found, self.latest_rest = state, found, None
        if not any(one.state.does_the_same_as(state) for one in self.tried):
            self.tried.append(Tried(state, found.exact_match, found.mean_nll))

    def rest(self) -> Rest:
        """The free continuation and the control, in the present state.

        Raises:
            InputError: a hook of somebody else's is on the model.
        """
        self._check_model()
        if self.latest_rest is None:
            means = self._means_for(self.state)
            said = measured.free_continuation(
                self.model, self.state, self.found, n_prefix=self.paragraph.n_prefix, means=means
            )
            self.latest_rest = Rest(said, self._control_rise(means))
        return self.latest_rest

    def suggestions(self, position: int, *, n: int = 5) -> list[Suggestion]:
        """Other tokens for a place: the model's own choices in the present state, and random ones.

        Raises:
            InputError: no such position, or a hook of somebody else's is on the model.
        """
        self._check_position(position)
        self._check_model()
        means = self._means_for(self.state)
        return measured.suggestions(self.model, self.state, self.found, position, means=means, n=n, seed=self.seed)

    def snippet(self) -> str:
        """Python that reproduces the present state."""
        return snippet(self.state, control=None if self.control is None else self.control_python)

    def _start(self) -> None:
        """Measure the untouched paragraph; what was known of other weights is forgotten."""
        refuse_hooks(self.model)
        self._weights = model_hash(self.model)
        self._means: ActivationMeans | None = None
        self._control_before: Tensor | None = None
        self.latest_rest: Rest | None = None
        self.state = State()
        self.untouched: Measured = measured.measure(self.model, self.paragraph, self.state)
        self.found = self.untouched
        self.untouched_said = measured.free_continuation(
            self.model, self.state, self.untouched, n_prefix=self.paragraph.n_prefix
        )
        self.tried = [Tried(self.state, self.found.exact_match, self.found.mean_nll)]

    def _check_model(self) -> None:
        refuse_hooks(self.model)
        if model_hash(self.model) != self._weights:
            self.go_to(self.state)

    def _means_for(self, state: State) -> ActivationMeans | None:
        if self.control is None or state.how != "mean" or not state.heads:
            return None
        if self._means is None:  # over positions too: a mean of its own for each position would be of few texts
            self._means = activation_means(self.model, self.control, sites="z", over="positions")
        return self._means

    def _control_rise(self, means: ActivationMeans | None) -> Float[Tensor, " paragraph"] | None:
        if self.control is None:
            return None
        if self._control_before is None:
            self._control_before = measured.control_nll(self.model, self.control, State())
        if self.state.is_untouched:
            return torch.zeros_like(self._control_before)
        return measured.control_nll(self.model, self.control, self.state, means=means) - self._control_before

    def _check_position(self, position: int) -> None:
        if not isinstance(position, int) or not 0 <= position < self.paragraph.n_prefix:
            raise InputError(f"only prefix tokens 0..{self.paragraph.n_prefix - 1} can be replaced, got {position!r}")
