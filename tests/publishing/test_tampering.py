"""What can be derived is not believed: each edit of a release folder is made once, and a gate must notice it."""

from __future__ import annotations

from pathlib import Path

import pytest
from publishing.folders import REPO
from publishing.tampering import REPORT, TAMPERINGS, rerecord

from eagle3hub.publishing.files import read_folder
from eagle3hub.publishing.gates import failed_gates


@pytest.mark.slow
@pytest.mark.parametrize("name", TAMPERINGS)
def test_an_edit_is_noticed(release: Path, name: str):
    edit, code, words = TAMPERINGS[name]
    edit(release)
    rerecord(release)
    files, links = read_folder(release)
    found = failed_gates(release, REPO, files, links, None)
    assert any(p.code == code and words in p.message for p in found), [(p.code, p.message) for p in found]


def test_a_release_as_it_was_made_has_no_problem(release: Path):
    rerecord(release)
    files, links = read_folder(release)
    assert failed_gates(release, REPO, files, links, None) == []


def test_without_its_record_brought_up_to_date_an_edit_is_noticed_by_its_bytes(release: Path):
    (release / REPORT).write_text((release / REPORT).read_text() + "\n")
    files, links = read_folder(release)
    (found,) = failed_gates(release, REPO, files, links, None)
    assert (found.code, found.message) == (
        "publish-manifest",
        f"{REPORT} has other bytes than when the release was made",
    )


def test_an_edited_card_is_shown_as_a_difference_with_the_place_for_such_text(release: Path):
    card = release / "README.md"
    card.write_text(card.read_text().replace("## Limitations", "Twice as fast.\n\n## Limitations"))
    rerecord(release)
    files, links = read_folder(release)
    (found,) = failed_gates(release, REPO, files, links, None)
    assert found.code == "publish-card"
    assert "sections: in the manifest" in str(found.hint)
    assert "+Twice as fast." in str(found.hint).splitlines()
