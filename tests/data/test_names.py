"""Two files never share a name, and the mask of one never has the name of another."""

from __future__ import annotations

import unicodedata

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from sam_monai.data.names import MARK, CaseNames, told_apart

PARTS = st.text("abAB._é ﬁ", min_size=1, max_size=4).filter(lambda part: part.strip("."))
FILES = st.builds(
    lambda folder, stem, mark, suffix: f"/{folder}/{stem}{mark}{suffix}",
    PARTS,
    PARTS,
    st.sampled_from(["", "_seg", "_SEG", "_seg_seg"]),
    st.sampled_from([".png", ".PNG", ".nii.gz", ".nii", ".dcm", "", ".txt"]),
)


def folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


@example(["/x/a.png", "/x/a_seg.png", "/x/A.png", "/y/a.png", "/x/a.jpg", "/x/a.png.png"])
@example([f"/{folder}/{'n' * 250}.png" for folder in "abc"])
@example(["/a_seg/b_seg", "/b_seg", "/.png", "/x/a\nb.png", "/x/e\u0301.png", "/x/\u00e9.png", f"/x/{'é' * 120}.png"])
@given(st.lists(FILES, unique=True, max_size=12))
def test_names_are_a_bijection(files):
    names = CaseNames()
    found = [names(file) for file in files]
    written = [folded(name) for name in found] + [folded(f"{name}{MARK}") for name in found]
    assert len(set(written)) == 2 * len(files)
    assert [names(file) for file in reversed(files)] == found[::-1]
    for name in found:
        assert name.isprintable() and "/" not in name and len(f"{name}{MARK}.nii.gz".encode()) < 230
    assert {name: str(file) for name, file in names.files.items()} == dict(zip(found, files, strict=True))


def test_a_name_from_an_earlier_run_stays_that_of_its_file(tmp_path):
    names = CaseNames()
    names.files["a"] = tmp_path / "old" / "a.png"
    assert names(tmp_path / "new" / "a.png") == "new_a"
    assert names(tmp_path / "old" / "a.png") == "a"


def test_a_name_that_windows_keeps_for_itself_is_not_given():
    names = CaseNames()
    for stem in ("CON", "nul", "Lpt1", "aux.x"):
        assert names(f"/x/{stem}.png") == f"x_{stem}"
    assert names("/x/console.png") == "console"


def test_ten_thousand_cases_are_named_at_once():
    names = CaseNames()
    order = np.random.default_rng(0).permutation(10000)
    assert len({names(f"/{i % 7}/case{i // 7}.nii.gz") for i in order}) == 10000


def test_files_are_told_by_the_folders_in_which_they_differ():
    same = ["/d/s1/ct.nii.gz", "/d/s2/ct.nii.gz"]
    assert told_apart(same) == ["s1/ct.nii.gz", "s2/ct.nii.gz"] and told_apart(same[:1], same) == ["s1/ct.nii.gz"]
    assert (
        told_apart(same[:1]) == ["ct.nii.gz"] and told_apart([]) == [] and told_apart(same[:1] * 2) == ["ct.nii.gz"] * 2
    )
    assert told_apart(["/d/a/x/ct.nii", "/d/b/x/ct.nii", "/ct.nii"]) == ["a/x/ct.nii", "b/x/ct.nii", "/ct.nii"]
    assert told_apart(["/d/a.png", "/d/b.png"]) == ["a.png", "b.png"]
