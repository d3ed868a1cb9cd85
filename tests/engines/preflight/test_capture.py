"""Aux layers that TensorRT-LLM gets from its YAML: they replace the default."""

from __future__ import annotations

import pytest
from support import outlines as f
from support.versions import TRTLLM, TRTLLM_NEXT

from eagle3hub.engines.preflight import ExaminedHead, preflight

T1, T2 = ("trtllm", TRTLLM), ("trtllm", TRTLLM_NEXT)


def codes(subject: ExaminedHead, told: list[int] | None) -> set[str]:
    verdict = preflight(subject, *T2, f.target(), told)
    return {r.code for r in verdict.reasons if r.effect != "right"}


@pytest.mark.parametrize(
    ("layers", "told", "kind"),
    [
        (f.AFTER, None, "right"),
        (f.AFTER, f.AFTER, "right"),
        (f.AFTER, f.OTHER_AFTER, "silently_wrong"),
        (f.AFTER, [-1], "silently_wrong"),
        (f.OTHER_AFTER, None, "silently_wrong"),
        (f.OTHER_AFTER, f.OTHER_AFTER, "right"),
        (f.OTHER_AFTER, f.AFTER, "silently_wrong"),
    ],
)
def test_what_it_is_told_decides(layers: list[int], told: list[int] | None, kind: str):
    got = preflight(f.modelopt(layers), *T2, f.target(), told).kind
    assert got == kind or (kind == "silently_wrong" and got == "refuses")


def test_the_final_hidden_state_has_to_be_asked_for():
    head = f.modelopt_without_aux()
    assert "final-norm" in codes(head, None)
    assert "final-norm" not in codes(head, [-1])
    assert "final-norm" in codes(head, f.AFTER)


def test_a_number_of_layers_that_fc_was_not_made_for():
    assert {"fc-width", "aux-count"} & codes(f.modelopt(f.AFTER), f.AFTER[:2])


def test_one_layer_has_no_fc_there_whatever_it_is_told():
    assert codes(f.modelopt(f.AFTER[:1]), f.AFTER[:1]) == {"single-feature"}
