"""Figures of quantised vectors against brute force, and the gate's sentences."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from cliploom.schemas.errors import CliploomError
from cliploom.schemas.media import Preprocess
from cliploom.schemas.models import ModelCard, Output
from cliploom.schemas.precision import AgreementSpec, Calibration, OutputFigures, PrecisionFigures, SampleId
from cliploom.transforms.encoders.figures import check_figures, neighbour_recall, output_figures
from cliploom.transforms.encoders.processor import processor_features, sums_exactly

GOOD = OutputFigures(mean=0.99, p5=0.97, least=0.9, recall=0.9)


def card(found: dict[str, OutputFigures], faster: float = 2.0, precision: str = "int8") -> ModelCard:
    return ModelCard(
        kind="efficientnet_lite0",
        digest="d",
        modality="frame",
        precision=precision,  # type: ignore[arg-type]
        outputs={name: Output(dim=4, space=f"{name}@int8") for name in found},
        preprocess=Preprocess(8, 8),
        figures=PrecisionFigures(found, faster, 300, 200, 41, processor="x86_64 avx2"),
        calibration="c",
    )


def test_recall_is_that_of_brute_force() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(60, 8))
    b = a + rng.normal(scale=0.3, size=a.shape)
    queries = np.arange(0, 60, 3)

    def nearest(values: np.ndarray, query: int) -> set[int]:
        unit = values / np.linalg.norm(values, axis=1, keepdims=True)
        order = np.argsort(-(unit @ unit[query]))
        return {int(place) for place in order[order != query][:10]}

    wanted = np.mean([len(nearest(a, int(q)) & nearest(b, int(q))) / 10 for q in queries])
    assert neighbour_recall(a, b, queries) == pytest.approx(wanted)
    assert 0.3 < wanted < 1


def test_equal_vectors_agree_wholly_also_where_rows_are_equal() -> None:
    a = np.repeat(np.random.default_rng(0).normal(size=(4, 8)), 10, axis=0).astype(np.float32)
    found = output_figures(a, a, range(40), scores=False)
    assert (found.mean, found.p5, found.least, found.recall) == (1, 1, 1, 1)


def test_scores_are_judged_by_their_best_class_on_held_back_samples_alone() -> None:
    a = np.eye(12, dtype=np.float32)
    b = np.roll(a, 1, axis=1)
    b[:6] = a[:6]
    assert output_figures(a, b, range(6), scores=True).top1 == 1
    assert output_figures(a, b, range(6, 12), scores=True).top1 == 0


def test_a_value_that_is_not_finite_agrees_with_nothing() -> None:
    a = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    b = a.copy()
    b[3, 0] = np.nan
    found = output_figures(a, b, range(20), scores=False)
    assert found.least == -1


def test_the_gate_says_figures_and_a_line_that_passes() -> None:
    poor = card({"pooled": replace(GOOD, p5=0.914, recall=0.712)}, faster=0.83)
    with pytest.raises(CliploomError, match=r"encoders\.lite0: int8 does not agree with f32") as told:
        check_figures("lite0", poor, AgreementSpec())
    said = str(told.value)
    for figure in ("p5 0.914, below 0.95", "recall 0.712, below 0.85", "faster 0.83, below 1.2, on x86_64 avx2"):
        assert figure in said
    assert "Use precision: f32" in said
    found = re.search(r"agreement: \{p5: ([\d.]+), recall: ([\d.]+), faster: ([\d.]+)\}", said)
    assert found is not None
    p5, recall, faster = map(float, found.groups())
    check_figures("lite0", poor, AgreementSpec(p5=p5, recall=recall, faster=faster))


def test_the_gate_asks_only_outputs_that_are_used_and_vectors() -> None:
    scores = replace(GOOD, p5=0.5, recall=0.1, top1=0.9)
    mixed = card({"pooled": GOOD, "probs": scores, "semantic": replace(GOOD, p5=0.5)})
    check_figures("lite0", mixed, AgreementSpec(), {"pooled", "probs"})
    with pytest.raises(CliploomError, match="semantic: p5"):
        check_figures("lite0", mixed, AgreementSpec(), {"pooled", "semantic"})


def test_weights_alone_need_not_be_faster() -> None:
    check_figures("minilm", card({"embedding": GOOD}, faster=0.9, precision="int8_weights"), AgreementSpec())


def test_cards_of_other_models_are_as_they_were() -> None:
    plain = replace(card({"pooled": GOOD}), figures=None, calibration="", precision="f32")
    assert not {"figures", "calibration"} & plain.to_dict().keys()
    assert ModelCard.from_dict(plain.to_dict()) == plain
    quantised = card({"pooled": GOOD})
    assert ModelCard.from_dict(quantised.to_dict()) == quantised


def test_the_digest_of_a_calibration_is_of_what_calibrates() -> None:
    samples = (SampleId("a", 0, held_back=False), SampleId("b", 3, held_back=True))
    before = Calibration(samples, overflow_fix=True)
    assert Calibration.from_dict(before.to_dict()) == before
    assert Calibration((samples[0], SampleId("c", 1, held_back=True)), overflow_fix=True).digest == before.digest
    assert Calibration((samples[1], SampleId("c", 1, held_back=False)), overflow_fix=True).digest != before.digest
    assert Calibration(samples, overflow_fix=False).digest != before.digest


def test_processor_features_heed_what_is_hidden(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor : 0\nflags : fpu avx2 avx512f avx512_vnni avx_vnni amx_int8\n")
    monkeypatch.delenv("OV_CPU_MAX_ISA", raising=False)
    assert processor_features(info).split()[1:] == ["avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8"]
    monkeypatch.setenv("OV_CPU_MAX_ISA", "AVX2")
    assert processor_features(info).split()[1:] == ["avx2"]
    assert not sums_exactly(processor_features(info))
    assert len(processor_features(tmp_path / "none").split()) == 1
