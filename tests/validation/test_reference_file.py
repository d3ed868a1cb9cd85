from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.sampling import examples
from support.versions import VLLM
from validation import samples
from validation.measured import measurement

from eagle3hub.errors import InputError, ManifestError, SourceError, UsageError
from eagle3hub.system.resources import schema
from eagle3hub.validation.gates import against_reference
from eagle3hub.validation.measurement import Reference, load_reference, write_reference
from eagle3hub.validation.report import Report

REFERENCE = Reference(measurement())


def saved(folder: Path, text: str) -> Path:
    path = folder / "acceptance.reference.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    text = write_reference(REFERENCE)
    assert load_reference(saved(tmp_path, text)) == REFERENCE
    assert write_reference(load_reference(tmp_path / "acceptance.reference.yaml")) == text


def test_it_can_be_read_by_a_person() -> None:
    lines = write_reference(REFERENCE).splitlines()
    assert "schema: eagle3hub/acceptance-reference/1" in lines
    assert "tolerance: 0.05" in lines
    assert "  tau: 1.528" in lines
    assert "# tau counts the target's own token of each round." in lines
    assert "# 6 prompts with rounds are too few for an interval; 8 or more are needed." in lines
    many = write_reference(Reference(measurement([(40 + i, 20, 5, 1) for i in range(8)]))).splitlines()
    assert any(line.startswith("# 95 % interval 1.") for line in many)
    assert "  - {question_id: 1, rounds: 56, drafted: 168, accepted_per_position: [7, 1, 0]}" in lines
    assert max(map(len, lines)) < 120


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(0.6))
@given(
    st.lists(st.one_of(st.integers(0, 10**9), st.text(max_size=20)), min_size=6, max_size=6, unique=True),
    st.text(min_size=1, max_size=40),
    st.one_of(st.none(), st.text(max_size=40)),
)
def test_any_name_survives(tmp_path: Path, ids: list[int | str], name: str, system: str | None) -> None:
    found = replace(
        measurement(system_prompt=system, target=name, target_digest=None),
        question_ids=tuple(ids),
        head=name,
        version=name,
    )
    assert load_reference(saved(tmp_path, write_reference(Reference(found)))).measurement == found


def test_from_a_report(tmp_path: Path) -> None:
    report = samples.report()
    made = Report.from_json(report)
    found = made.measurement(made.engines[0])
    assert (found.engine, found.version, found.head) == ("vllm", VLLM, "my-head")
    assert found.conditions.drafting == "greedy"
    assert found.counts[0].accepted_per_position == (7, 1, 0)
    kept = load_reference(saved(tmp_path, write_reference(Reference(found))))
    assert kept.measurement == found
    assert against_reference(found, kept).verdict == "pass"
    changed = replace(made, settings=replace(made.settings, drafting="probabilistic"))
    later = changed.measurement(changed.engines[0])
    assert "drafting is probabilistic, not greedy" in against_reference(later, kept).reason


def test_the_schema_is_one_and_documents_every_field() -> None:
    from jsonschema import Draft202012Validator

    document = schema("acceptance-reference")
    Draft202012Validator.check_schema(document)

    def walk(node: object) -> None:
        if isinstance(node, dict):
            for name, child in node.get("properties", {}).items():
                assert child["description"], name
            for child in node.values():
                walk(child)

    walk(document)


@pytest.mark.parametrize(
    ("change", "line", "says", "code"),
    [
        (("tolerance: 0.05", "tolerance: 5"), 5, "tolerance is 5", "reference-schema"),
        (("tolerance: 0.05", "tolerence: 0.05"), 5, "unknown field 'tolerence'; did you mean 'tolerance'?", None),
        (("reference/1", "reference/2"), 2, "schema is", "reference-schema"),
        (('dtype: "float32"', 'dtype: "fp32"'), None, 'settings.dtype is "fp32"', "reference-schema"),
        (("  max_new_tokens: 64\n", ""), None, "'settings.max_new_tokens' is missing", "reference-schema"),
        (("rounds: 56, drafted: 168", "rounds: 56, drafted: 169"), 44, "169 tokens drafted", "reference-counters"),
        (("rounds: 56, drafted: 168", "rounds: 57, drafted: 171"), 40, "measured.rounds is 250, but", None),
        (("[7, 1, 0]", "[7, 1]"), 44, "2 draft positions, where settings.draft_tokens is 3", "reference-counters"),
        (("[7, 1, 0]", "[1, 7, 0]"), 44, "rises", "reference-counters"),
        (("[7, 1, 0]", "[7, 1, 1]"), 41, "measured.accepted_per_position is [93, 30, 9], but", None),
        (("question_id: 2,", "question_id: 1,"), 45, "question_id 1 was used on line 44 already", None),
        (("tau: 1.528", "tau: 1.53"), 39, "measured.tau is 1.53, but the counters give 1.5280", None),
        (("count: 6", "count: 7"), None, "prompts.count is 7, but 6 are listed", "reference-counters"),
        (("count: 6", "count: 5"), None, "prompts.count is 5, but 6 are listed", "reference-counters"),
        (("rounds: 56,", "rounds: lots,"), 44, 'per_prompt[0].rounds is "lots"', "reference-schema"),
        (("question_id: 1,", "question_id: [1],"), 44, "per_prompt[0].question_id is a list", None),
        (("schema:", "schema: ["), 5, "not valid YAML", "manifest-yaml"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(
    tmp_path: Path, change: tuple[str, str], line: int | None, says: str, code: str | None
) -> None:
    text = write_reference(REFERENCE)
    assert change[0] in text
    path = saved(tmp_path, text.replace(*change, 1))
    with pytest.raises(ManifestError) as error:
        load_reference(path)
    assert says in error.value.message
    assert error.value.message.startswith(f"acceptance.reference.yaml:{'' if line is None else f'{line}: '}")
    assert code in (None, error.value.code)


@pytest.mark.parametrize("text", ["", "[]", "# nothing\n", "7"])
def test_what_is_no_reference_at_all(tmp_path: Path, text: str) -> None:
    with pytest.raises(ManifestError) as error:
        load_reference(saved(tmp_path, text))
    assert error.value.code == "reference-schema"


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        load_reference(tmp_path / "acceptance.reference.yaml")


def test_a_run_without_a_round_is_no_reference() -> None:
    with pytest.raises(InputError) as error:
        write_reference(Reference(measurement([(0, 0, 0, 0)])))
    assert error.value.code == "metrics-no-rounds"


@pytest.mark.parametrize("tolerance", [-0.1, 1.0, float("nan")])
def test_a_tolerance_that_cannot_be(tolerance: float) -> None:
    make: Callable[[], Reference] = lambda: Reference(measurement(), tolerance)  # noqa: E731
    with pytest.raises(UsageError):
        make()
