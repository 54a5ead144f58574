"""What is compared with what: each study's presets, whose encoder they share, and its table."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..training import experiments
from ..training.command_line import command_for
from ..training.experiments import Results, mean_over, row_label
from ..training.files import read_json
from ..training.settings import flag
from ..training.tables import markdown_table, percent
from .evaluate import Evaluation
from .models import build_learner
from .plots import draw_comparison, draw_settings
from .presets import PRESETS
from .settings import Settings
from .tables import numbers_of

_CORES = {"srwm": "SRWM", "deltanet": "DeltaNet", "lstm": "LSTM", "fake-sr": "fake SR"}


@dataclass(frozen=True)
class Study(experiments.Study[Settings]):
    """A comparison of presets, each run with several seeds."""

    draw: Callable[[Results, Path], None] = draw_comparison
    k_shots: tuple[int, ...] = ()  # labelled examples to evaluate with; none: the run's own evaluation

    def facts(self) -> dict[str, Any]:
        return {"k_shots": list(self.k_shots)} if self.k_shots else {}

    def of_seed(self, row: Settings, seed: int, threads: int, leader: Path | None) -> Settings:
        return replace(row, seed=seed, threads=threads, encoder_from=leader)

    def programs(self, settings: Settings) -> list[str]:
        """Training, which evaluates the run too, and an evaluation with other numbers of examples."""
        training = command_for(settings, PRESETS.get(settings.preset or "", Settings()))
        if not self.k_shots:
            return [training]
        evaluation = ["python", "-m", "examples.fewshot.evaluate", str(settings.folder)]
        evaluation += ["--k-shots", *map(str, self.k_shots), "--threads", str(settings.threads)]
        return [training, shlex.join(evaluation)]

    def evaluation(self, settings: Settings) -> Path:
        evaluation = Evaluation(runs=(settings.folder,), k_shots=self.k_shots)
        return settings.folder / evaluation.file(settings)

    def read(self, settings: Settings, reports: list[dict[str, Any]]) -> dict[str, Any]:
        validations = [line for line in reports if line["split"] == "validation"]
        return {
            "result": read_json(self.evaluation(settings)),
            "curve": [{key: line[key] for key in ("step", "seconds", "accuracy")} for line in validations],
        }

    def parameters(self, row: Settings) -> int:
        return sum(parameter.numel() for parameter in build_learner(row).parameters())

    def table(self, results: Results) -> str:
        """Mean ± 95 % interval over the seeds, in Markdown."""
        entries = list(results["compared"].values())
        heads = [column for _, column, _ in numbers_of(entries[0]["summary"]) if column]
        rows = []
        for entry in entries:
            cells = [percent(values) for _, column, values in numbers_of(entry["summary"]) if column]
            rows.append([row_label(entry, results), *cells, f"{mean_over(entry, 'minutes'):.1f}"])
        return markdown_table(["", *heads, "minutes"], rows)


_TRIED: tuple[tuple[str, Any], ...] = (
    *(("learning_rate", 2e-3), ("learning_rate", 8e-3), ("lr_warmup", 0.2)),
    *(("q_scale", 0.1), ("beta_init", -2.0), ("input_softmax", True), ("residual", "pre_norm")),
    *(("n_layers", 3), ("n_heads", 2), ("n_heads", 4)),
)


def _fewer_steps(core: str, **change: Any) -> Settings:
    name = "-".join([f"sequential-8000-{core}", *(f"{name}-{value}" for name, value in change.items())])
    row = PRESETS[f"sequential-glyphs-textures-{core}"]
    return replace(row, name=name.replace("_", "-"), steps=8000, **change)


_THREE = "continual-glyphs-textures-digits-srwm"

STUDIES = {
    "glyphs": Study(
        title="5-way classification of letters of unseen scripts",
        rows={
            f"{name}, {k_shot}-shot": PRESETS[f"glyphs-{k_shot}shot-{core}"]
            for k_shot in (1, 5)
            for core, name in _CORES.items()
        },
        leader="glyphs-1shot-srwm",
    ),
    "sequential": Study(
        title="Letters and textures in one sequence, each label shown one image late",
        rows={
            _CORES[core]: PRESETS[f"sequential-glyphs-textures-{core}"]
            for core in ("srwm", "deltanet", "lstm")
        },
        leader="sequential-glyphs-textures-srwm",
    ),
    "sequential-settings": Study(
        title="SRWM on letters and textures in one sequence, 8,000 steps, one setting changed",
        rows={
            "SRWM": _fewer_steps("srwm"),
            **{f"{flag(name)} {value}": _fewer_steps("srwm", **{name: value}) for name, value in _TRIED},
            "DeltaNet": _fewer_steps("deltanet"),
        },
        draw=draw_settings,
        leader="sequential-8000-srwm",
    ),
    "continual": Study(
        title="Letters and textures one after the other, each asked about again after the other",
        rows={
            f"{_CORES[core]}{', without backward terms' if end else ''}": PRESETS[
                f"continual-glyphs-textures-{core}{end}"
            ]
            for core in ("srwm", "deltanet")
            for end in ("", "-no-backward")
        },
        leader="continual-glyphs-textures-srwm",
    ),
    "continual-three": Study(
        title="Letters, textures and digits one after the other, each asked about again after the others",
        rows={
            "SRWM": PRESETS[_THREE],
            "SRWM, without backward terms": replace(
                PRESETS[_THREE], name=f"{_THREE}-no-backward", backward_terms=False
            ),
            "DeltaNet": replace(PRESETS[_THREE], name=_THREE.replace("srwm", "deltanet"), core="deltanet"),
        },
        leader=_THREE,
    ),
    "bootstrapping": Study(
        title="Letters of unseen scripts, with more examples than in training",
        rows={
            "trained with 2 examples": PRESETS["glyphs-2shot-srwm"],
            "the same, beside a teacher that has read 3 more": PRESETS["glyphs-2shot-bootstrapping"],
        },
        leader="glyphs-2shot-srwm",
        k_shots=(1, 2, 3, 4, 5, 6, 7),
    ),
}
