"""A whole study of the bundled organism: recite, perturb, patch, ablate, look, check, unlearn, report.

Every stage measures four conditions side by side:

- `memorized`: set A under the organism, which read it;
- `control`: set C under the organism, never read, with its true continuation;
- `control_own`: set C with the organism's own continuation (the published convention);
- `twin`: set A under the twin, which read set B instead: the same tokens, other weights.
"""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Int
from torch import Tensor

from memhooks.errors import InputError
from memhooks.measure.recitation import recitation, with_own_continuation
from memhooks.model.export import check_writable
from memhooks.model.labelled import AXES, save_result, versions
from memhooks.model.loading import HookedModel, load_model, tokenizer_of
from memhooks.model.provenance import model_hash, tensor_hash
from memhooks.organism.paragraphs import load_controls, load_natural, load_planted, load_unigram_counts
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.report.study_page import write_study_report
from memhooks.study.interventions import Found, ablation_stage, lens_stage, patching_stage, perturbation_stage
from memhooks.study.looking import attention_stage, gradients_stage, partly_recited
from memhooks.study.settings import Settings
from memhooks.study.truth import capacity_stage, forks_stage, injections_stage, sinks_stage
from memhooks.study.unlearning import unlearning_stage, unlearning_table
from memhooks.writing import whole_file

Localized = Literal["perturbation", "patching", "ablation", "lens", "gradients", "attention"]
Checked = Literal["forks", "capacity", "sinks", "injections"]
Stage = Literal["recitation", Localized, Checked, "unlearning"]
STAGES: tuple[Stage, ...] = get_args(Stage)


@dataclass
class Study:
    """The organism's study; `run` yields stage by stage, results are kept and written to `folder`."""

    folder: Path
    settings: Settings = field(default_factory=Settings)
    results: dict[str, dict[str, xr.Dataset]] = field(default_factory=dict)
    unlearned: list[dict[str, object]] = field(default_factory=list)

    def run(self) -> Iterator[tuple[Stage, float]]:
        """Run every stage, yielding its name and seconds once its results are on disk.

        Raises:
            InputError: the folder cannot be written to, or the assets are missing.
        """
        check_writable(self.folder)
        for old in [*self.folder.glob("results/*.nc"), self.folder / "report.html"]:
            old.unlink(missing_ok=True)  # results of another run must not stand beside this manifest
        self._write_manifest()
        for stage in STAGES:
            start = time.perf_counter()
            self._run_stage(stage)
            yield stage, time.perf_counter() - start

    def write_report(self) -> Path:
        """Write the run folder's `report.html` from the results of `run` and return its path."""
        shown = self.memorized.sample(4, seed=self.settings.seed)
        names = [
            f"{name}, planted {count} times, from {source}"
            for name, count, source in zip(shown.ids, shown.counts or (), shown.sources or (), strict=True)
        ]
        examples = [
            {"name": name, "prefix": prefix, "continuation": rest}
            for name, (prefix, rest) in zip(names, shown.halves(tokenizer_of(self.organism)), strict=True)
        ]
        counts = self.planted.counts or ()
        return write_study_report(self.folder, self.results, self.unlearned, counts=counts, examples=examples)

    def _run_stage(self, stage: Stage) -> None:
        match stage:
            case "recitation":
                self._keep(stage, {name: recitation(*pair) for name, pair in self._recited().items()})
                self._check_enough()
            case "unlearning":
                self.unlearned = list(self._unlearn())
                self._keep(stage, {"all": unlearning_table(self.unlearned)})
            case "forks" | "capacity" | "sinks" | "injections":
                self._keep(stage, self._checked(stage))
            case _:
                for name, found in self._localized(stage).items():
                    self._keep(name, found)

    def _localized(self, stage: Localized) -> Found:
        s = self.settings
        match stage:
            case "perturbation":
                return perturbation_stage(self.conditions(s.n_perturbed), self.counts, seed=s.seed)
            case "patching":
                conditions, effects = self.conditions(s.n_perturbed), self.results["perturbation"]
                return patching_stage(conditions, effects, n_mapped=s.n_mapped)
            case "ablation":
                held_out = load_controls("held_out").sample(s.n_ablated, seed=s.seed)
                conditions = self.conditions(s.n_ablated)
                return ablation_stage(conditions, held_out, n_cumulative=s.n_cumulative, seed=s.seed)
            case "gradients":
                natural = load_natural().select(self._in_full("natural"))
                partly = partly_recited(self.planted, self._in_full("memorized"))
                return gradients_stage(self.conditions(s.n_gradients), partly, natural, n=s.n_gradients, seed=s.seed)
            case "attention":
                pairs = self.prefix_conditions(s.n_attention)  # attention reads the prefix alone
                return attention_stage(pairs, self.counts, self.results["specificity"], seed=s.seed)
            case _:
                return lens_stage(self.conditions(s.n_lens))

    def _checked(self, stage: Checked) -> dict[str, xr.Dataset]:
        """What is known to be true of the organism: its fork, its bits, and text that we write into it ourselves."""
        s, models = self.settings, (self.organism, self.twin)
        unread, mirror = load_controls("prose"), load_planted("B")
        if stage == "sinks":
            return sinks_stage(self.prefix_conditions(s.n_lens), s.seed)
        if stage == "injections":
            return injections_stage(self.organism, self.memorized, unread, n=s.n_injections, seed=s.seed)
        sets = {"memorized": self.planted, "mirror": mirror, "control": unread}
        every = {name: rows.sample(s.n_counted, seed=s.seed) for name, rows in sets.items()}
        if stage == "capacity":
            return capacity_stage(*models, every, s.seed)
        sets["memorized"], sets["mirror"] = self.memorized, mirror.select(_most_often(mirror))
        few = {name: rows.sample(s.n_swapped, seed=s.seed) for name, rows in sets.items()}
        return forks_stage(*models, few, every, s.seed)

    @cached_property
    def organism(self) -> HookedModel:
        """The model that read set A."""
        return load_model("organism")

    @cached_property
    def twin(self) -> HookedModel:
        """The model that read set B in its place."""
        return load_model("organism-twin")

    @cached_property
    def counts(self) -> Int[Tensor, " d_vocab"]:
        """How often each token occurs in the text that both models read, the planted copies left out."""
        return load_unigram_counts(self.organism.cfg.d_vocab)

    @cached_property
    def planted(self) -> Paragraphs:
        """Set A, or a sample of it."""
        return load_planted("A").sample(self.settings.n_planted, seed=self.settings.seed)

    @cached_property
    def memorized(self) -> Paragraphs:
        """The paragraphs of set A that the organism recites in full."""
        return self.planted.select(self._in_full("memorized"))

    def conditions(self, n: int) -> dict[str, tuple[HookedModel, Paragraphs]]:
        """The four conditions with up to `n` paragraphs each; a smaller `n` gives some of those of a larger one."""
        found = self.prefix_conditions(n)
        model, control = found["control"]
        own = (model, with_own_continuation(model, control))
        return {"memorized": found["memorized"], "control": found["control"], "control_own": own, "twin": found["twin"]}

    def prefix_conditions(self, n: int) -> dict[str, tuple[HookedModel, Paragraphs]]:
        """The conditions that differ in the prefix or the model; nothing is decoded for them."""
        memorized = self.memorized.sample(n, seed=self.settings.seed)
        control = load_controls("prose").sample(n, seed=self.settings.seed)
        return {
            "memorized": (self.organism, memorized),
            "control": (self.organism, control),
            "twin": (self.twin, memorized),
        }

    def _in_full(self, name: str) -> Bool[np.ndarray, " paragraph"]:
        """Which paragraphs of that set the organism recites in full."""
        return self.results["recitation"][name]["full_match"].values

    def _check_enough(self) -> None:
        needed = self.settings.n_unlearned + self.settings.n_retain + 1
        there = int(self._in_full("memorized").sum())
        if there < needed:
            raise InputError(f"the study needs {needed} paragraphs recited in full, the organism recites {there}")

    def _recited(self) -> dict[str, tuple[HookedModel, Paragraphs]]:
        return {
            "memorized": (self.organism, self.planted),
            "twin": (self.twin, self.planted),
            "natural": (self.organism, load_natural()),
            "control": (
                self.organism,
                load_controls("prose").sample(self.settings.n_controls, seed=self.settings.seed),
            ),
        }

    def _unlearn(self) -> Iterator[dict[str, object]]:
        """Each target with three masks; the model is bit for bit restored in between."""
        s = self.settings
        memorized = self.memorized.sample(s.n_unlearned + s.n_retain + s.n_others, seed=s.seed + 1)
        targets, kept, others = memorized.parts(s.n_unlearned, s.n_retain, s.n_others)
        unseen = load_controls("prose").sample(s.n_retain + s.n_others, seed=s.seed + 1)
        retain, held_out = unseen.parts(s.n_retain, s.n_others)
        return unlearning_stage(
            self.organism,
            self.twin,
            targets,
            retain=kept.joined(retain),
            kept={"other memorized": others, "never seen": held_out},
            settings=s,
        )

    def _keep(self, name: str, found: Mapping[str, xr.Dataset]) -> None:
        self.results[name] = dict(found)
        save_result(xr.DataTree.from_dict(dict(found)), self.folder / "results" / f"{name}.nc")

    def _write_manifest(self) -> None:
        manifest = {
            "settings": asdict(self.settings),
            "versions": versions(),
            "threads": torch.get_num_threads(),
            "models": {"organism": model_hash(self.organism), "organism-twin": model_hash(self.twin)},
            "paragraphs": {
                "A": tensor_hash(load_planted("A").tokens),
                "unigram counts": tensor_hash(load_unigram_counts()),
                "C": tensor_hash(load_controls("prose").tokens),
                "natural": tensor_hash(load_natural().tokens),
            },
            "axes": AXES,
        }
        with whole_file(self.folder / "manifest.json") as partial:
            partial.write_text(json.dumps(manifest, indent=2))


def _most_often(rows: Paragraphs) -> list[bool]:
    """Which paragraphs were planted as often as any: those that are recited if some are."""
    most = max(rows.counts or (0,))
    return [count == most for count in rows.counts or ()]
