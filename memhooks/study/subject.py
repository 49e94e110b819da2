"""Who is studied: a model, the text that it may recite, like text that it never read, and a twin if there is one."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from jaxtyping import Int
from torch import Tensor

from memhooks.errors import InputError
from memhooks.model.loading import HookedModel, load_model
from memhooks.model.provenance import model_hash, tensor_hash
from memhooks.organism.paragraphs import load_controls, load_natural, load_planted, load_unigram_counts
from memhooks.paragraphs.counts import load_counts
from memhooks.paragraphs.files import load_paragraphs
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.study.settings import Settings

BUNDLED = "organism"


@dataclass(frozen=True)
class Subject:
    """What a study is of.

    Attributes:
        model: may recite `candidates`.
        candidates: paragraphs of which those recited in full are the memorized ones.
        unread: paragraphs that the model never read: the control.
        held_out: others of them, on which heads chosen elsewhere are judged.
        twin: a model like it that never read the candidates.
        mirror: what the twin read in their place.
        counts: how often each token id occurs in the training text.
        further: more sets of paragraphs, by name: `natural`, recited by chance; `licence_never`, never read.
    """

    model: HookedModel
    candidates: Paragraphs
    unread: Paragraphs
    held_out: Paragraphs
    twin: HookedModel | None = None
    mirror: Paragraphs | None = None
    counts: Int[Tensor, " d_vocab"] | None = None
    further: Mapping[str, Paragraphs] = field(default_factory=dict)

    def about(self) -> dict[str, dict[str, str]]:
        """Fingerprints of all of it, for the manifest."""
        sets = {"candidates": self.candidates, "unread": self.unread, "held_out": self.held_out, **self.further}
        models = {"model": self.model} | ({"twin": self.twin} if self.twin else {})
        if self.mirror is not None:
            sets["mirror"] = self.mirror
        texts = {name: _fingerprint(rows) for name, rows in sets.items()}
        return {
            "models": {name: model_hash(one) for name, one in models.items()},
            "paragraphs": texts | ({} if self.counts is None else {"counts": tensor_hash(self.counts)}),
        }


def _fingerprint(rows: Paragraphs) -> str:
    labels = repr((rows.n_prefix, rows.ids, rows.counts)).encode()
    return tensor_hash(rows.tokens) + hashlib.blake2b(labels, digest_size=8).hexdigest()


def load_subject(settings: Settings) -> Subject:
    """The bundled organism with its twin, or the model and files that the settings name.

    Raises:
        InputError: a file is missing or does not fit the model; or a model of one's own comes without its texts.
    """
    if settings.model == BUNDLED and not (settings.paragraphs or settings.controls):
        return _bundled(settings)
    if not (settings.paragraphs and settings.controls):
        raise InputError(
            f"a study of {settings.model} needs paragraphs (a file of text that it may recite) and controls "
            "(a file of like text that it never read): without a control there is no finding"
        )
    for name in (settings.paragraphs, settings.controls, *filter(None, [settings.counts])):
        if not Path(name).exists():
            raise InputError(f"there is no file at {name}")
    return _own(settings)


def _bundled(settings: Settings) -> Subject:
    model, twin, unread = load_model(BUNDLED), settings.twin or f"{BUNDLED}-twin", load_controls("prose")
    return Subject(
        model,
        candidates=load_planted("A").sample(settings.n_planted, seed=settings.seed),
        unread=unread,
        held_out=load_controls("held_out"),
        twin=_twin(twin, model, unread),
        mirror=load_planted("B") if twin == f"{BUNDLED}-twin" else None,  # nobody knows what another one read
        counts=_counts(settings, model) if settings.counts else load_unigram_counts(model.cfg.d_vocab),
        further={"natural": load_natural(), "licence_never": load_controls("licence_never")},
    )


def _own(settings: Settings) -> Subject:
    model = load_model(settings.model)
    rows = load_paragraphs(settings.paragraphs, tokenizer=model.tokenizer).check(model)
    unread = load_paragraphs(settings.controls, tokenizer=model.tokenizer).check(model)
    length, there = rows.tokens.shape[1], unread.tokens.shape[1]
    if there < length:
        raise InputError(f"controls have {there} tokens, paragraphs {length}; give controls at least as long")
    unread = replace(unread, tokens=unread.tokens[:, :length], n_prefix=rows.n_prefix, text=None)
    if len(unread) < 8:
        raise InputError(f"controls has {len(unread)} paragraphs; half of them are held out, so give at least 8")
    unread, held_out = unread.parts(len(unread) - len(unread) // 2, len(unread) // 2)
    return Subject(
        model,
        candidates=rows.sample(settings.n_planted, seed=settings.seed),
        unread=unread,
        held_out=held_out,
        twin=_twin(settings.twin, model, rows) if settings.twin else None,
        counts=_counts(settings, model) if settings.counts else None,
    )


def _counts(settings: Settings, model: HookedModel) -> Int[Tensor, " d_vocab"]:
    return load_counts(Path(settings.counts), d_vocab=model.cfg.d_vocab)


def _twin(name: str, model: HookedModel, rows: Paragraphs) -> HookedModel:
    """The twin, which must read the same tokens with as many layers and heads.

    Raises:
        InputError: it has others.
    """
    twin = load_model(name)
    shapes = [
        f"{one.cfg.n_layers} layers of {one.cfg.n_heads} heads, {one.cfg.d_vocab} tokens" for one in (twin, model)
    ]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"the twin must be like the model but for what it read; {name} has {shapes[0]}, not {shapes[1]}"
        )
    rows.check(twin)
    return twin
