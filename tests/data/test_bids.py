"""Several images of each BIDS session are its channels, and one is taken alone only where a user names it."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
from folder_maker import SHAPE, bids, image, label, refused_in_one_line
from image_files import volume

from sam_monai.__main__ import main
from sam_monai.data import LoadCased, check_dataset, images_to_segment, read_dataset
from sam_monai.data.channels import FILES
from sam_monai.errors import InputError

SEQUENCES = ("T1w", "FLAIR")


def anat(top: Path, subject: int, session: int = 1) -> Path:
    return top / f"sub-{subject:02d}/ses-{session}/anat"


def file(top: Path, subject: int, sequence: str, session: int = 1) -> Path:
    return anat(top, subject, session) / f"sub-{subject:02d}_ses-{session}_{sequence}.nii.gz"


def sequences(top: Path, names: tuple[str, ...] = SEQUENCES, subjects: int = 5, sessions: int = 1) -> Path:
    """BIDS with several images in each session, of which the folder's derivatives hold one label map."""
    for subject in range(subjects):
        for session in range(1, sessions + 1):
            for name in names:
                image(file(top, subject, name, session))
            image(anat(top, subject, session).parent / "func" / f"sub-{subject:02d}_ses-{session}_bold.nii.gz")
            at = anat(top / "derivatives" / "manual", subject, session)
            label(at / f"sub-{subject:02d}_ses-{session}_space-T1w_dseg.nii.gz")
    return top


def stems(case) -> list[str]:
    return [Path(path).name.partition(".")[0].split("_", 2)[2] for path in case.get(FILES, [case["image"]])]


def test_images_that_every_session_has_are_channels_and_a_line_says_so(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        dataset = read_dataset(sequences(tmp_path, sessions=2))
    (line,) = [message for message in caplog.messages if "labelled images" in message]
    assert "BIDS folder with the channels FLAIR, T1w: 10 labelled images" in line and "every fifth subject" in line
    assert dataset.channels == ("FLAIR", "T1w") and dataset.intensity == "mr"
    assert len(dataset.training) == 8 and len(dataset.validation) == 2
    for case in [*dataset.training, *dataset.validation]:
        assert stems(case) == ["FLAIR", "T1w"]
        session = re.search(r"sub-\d+_ses-\d", case["label"])
        assert session and all(session[0] in path for path in case[FILES])
    assert check_dataset(dataset) == []
    loaded = LoadCased(labels=dataset.labels, channel_names=dataset.channels)(dataset.training[0])["image"]
    each = [LoadCased("image")({"image": path})["image"] for path in dataset.training[0][FILES]]
    assert loaded.shape == (2, *SHAPE) and not np.array_equal(each[0], each[1])
    assert all(np.array_equal(loaded[i], one[0]) for i, one in enumerate(each))


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (("space-MNI_T1w", "space-MNI_FLAIR"), ["FLAIR", "T1w"]),
        (("T1w", "ce-gd_T1w"), ["T1w", "ce-gd_T1w"]),
        (("run-1_T1w", "FLAIR", "T2w"), ["FLAIR", "T2w", "run-1_T1w"]),
        (("acq-hi_T1w",), []),
    ],
)
def test_channels_have_the_names_of_the_images_without_what_all_share(tmp_path, files, names):
    dataset = read_dataset(sequences(tmp_path, files))
    assert list(dataset.channels) == names and dataset.intensity == "mr"
    assert {len(case.get(FILES, "1")) for case in dataset.training} == {len(files)}


def test_images_that_differ_in_how_they_were_taken_are_one_channel_by_their_suffix(tmp_path):
    sequences(tmp_path)
    file(tmp_path, 1, "T1w").rename(file(tmp_path, 1, "acq-slow_run-2_T1w"))
    dataset = read_dataset(tmp_path)
    assert dataset.channels == ("FLAIR", "T1w") and stems(dataset.training[1]) == ["FLAIR", "acq-slow_run-2_T1w"]


def test_the_command_writes_the_channels_and_the_list_is_read_alike(tmp_path, capsys):
    before = read_dataset(sequences(tmp_path))
    main(["dataset", str(tmp_path), "--labels", "grey,white"])
    assert "BIDS folder with the channels FLAIR, T1w" in capsys.readouterr().out
    content = json.loads((tmp_path / "dataset.json").read_text())
    assert content["modality"] == {"0": "FLAIR", "1": "T1w"} and (tmp_path / "dataset.png").exists()
    after = read_dataset(tmp_path)
    assert after.channels == before.channels and after.labels == ("grey", "white")
    assert [c[FILES] for c in after.validation] == [c[FILES] for c in before.validation]


@pytest.mark.parametrize(("channel", "taken"), [("t1w", "T1w"), ("0", "FLAIR")])
def test_the_command_takes_one_that_is_named_or_numbered(tmp_path, capsys, channel, taken):
    main(["dataset", str(sequences(tmp_path)), "--channel", channel])
    assert "is taken" in capsys.readouterr().out
    dataset = read_dataset(tmp_path)
    assert not dataset.channels and {*map(str, stems(dataset.training[0]))} == {taken}
    assert len(dataset.training) == 4 and check_dataset(dataset) == []


def test_one_that_all_have_is_taken_where_another_is_missing(tmp_path):
    file(sequences(tmp_path), 2, "FLAIR").unlink()
    with pytest.raises(InputError) as error:
        read_dataset(tmp_path)
    said = str(error.value)
    assert "sub-00_ses-1 has the images FLAIR, T1w, and sub-02_ses-1 has T1w; add what is missing" in said
    assert said.endswith(f"sam-monai dataset {tmp_path} --channel T1w; or list pairs in a CSV") and "\n" not in said
    main(["dataset", str(tmp_path), "--channel", "T1w"])
    assert len(read_dataset(tmp_path).training) == 4


def test_sessions_without_a_label_are_segmented_with_all_their_channels(tmp_path):
    sequences(tmp_path)
    for name in SEQUENCES:
        image(file(tmp_path, 7, name))
    (case,) = images_to_segment(tmp_path, channel_names=["FLAIR", "T1w"])
    assert stems(case) == ["FLAIR", "T1w"] and "sub-07" in case["image"]
    with pytest.raises(InputError, match=r"channels FLAIR, T1w, and the adapter takes T1w, FLAIR"):
        images_to_segment(tmp_path, channel_names=["T1w", "FLAIR"])


def other_grid(top: Path, shape: tuple[int, ...] = (9, 8, 4), shift: float = 0) -> None:
    affine = np.eye(4)
    affine[0, 3] = shift
    values = np.random.default_rng(0).integers(1, 255, shape).astype(np.uint8)
    volume(file(sequences(top), 3, "T1w"), values, affine)


def other_kind(top: Path) -> None:
    """Each session has one image, and they are not all of one kind."""
    sequences(top, ("T1w",))
    file(top, 3, "T1w").rename(file(top, 3, "T2w"))


def endless_cell(top: Path) -> None:
    sequences(top)
    (top / "dseg.tsv").write_text(f"index\tname\n1\t{'x' * 200_000}\n")


def repeats(top: Path) -> None:
    sequences(top, ("run-1_T1w", "run-2_T1w"))


BAD = {
    "another size": (other_grid, r"sub-03_ses-1_T1w\.nii\.gz: is 9 x 8 x 4, and sub-03_ses-1_FLAIR\.nii\.gz is 9 x 8 "
                                 r"x 3, and channels need one grid;.*--channel FLAIR"),
    "another place": (lambda t: other_grid(t, SHAPE, 1.0), r"T1w\.nii\.gz: lies beside sub-03_ses-1_FLAIR"),
    "another kind": (other_kind, "sub-00_ses-1 has the images T1w, and sub-03_ses-1 has T2w; add.*CSV"),
    "an endless cell": (endless_cell, r"dseg\.tsv: cannot be read as a table"),
    "repeats": (repeats, "sub-00_ses-1 has repeats of an image, run-1_T1w, run-2_T1w; take one: .*--channel run-1_T1w"),
}  # fmt: skip


@pytest.mark.parametrize("form", BAD)
def test_what_cannot_be_channels_or_names_is_refused_in_one_line(tmp_path, form):
    refused_in_one_line(tmp_path, *BAD[form])


@pytest.mark.parametrize(
    ("channel", "said"),
    [("T2w", "has no image T2w: there are FLAIR, T1w"), ("2", "no channel 2; there are 2: FLAIR, T1w")],
)
def test_a_channel_that_is_not_there_is_refused(tmp_path, capsys, channel, said):
    assert main(["dataset", str(sequences(tmp_path)), "--channel", channel]) != 0
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("column, said", [("is_test", "the column is_test is not read; call it split"), ("fold", None)])
def test_a_table_of_participants_states_folds_and_no_split_under_another_name(tmp_path, column, said):
    rows = [f"sub-{i:02d}\t{int(i < 2)}\n" for i in range(6)]
    (bids(tmp_path) / "participants.tsv").write_text(f"participant_id\t{column}\n" + "".join(rows))
    if said:
        with pytest.raises(InputError, match=said):
            read_dataset(tmp_path)
        return
    assert [Path(case["image"]).name[:6] for case in read_dataset(tmp_path, fold=1).validation] == ["sub-00", "sub-01"]
    assert len(read_dataset(tmp_path).validation) == 4  # fold 0


def test_a_finding_that_is_called_test_is_no_split(tmp_path):
    rows = [f"sub-{i:02d}\t{20 + i}\n" for i in range(6)]
    (bids(tmp_path) / "participants.tsv").write_text("participant_id\ttest\n" + "".join(rows))
    assert len(read_dataset(tmp_path).validation) == 1


def test_what_a_mac_leaves_beside_a_table_of_labels_is_no_table(tmp_path):
    sequences(tmp_path, ("T1w",))
    (tmp_path / "dseg.tsv").write_text("index\tname\n1\tliver\n2\ttumour\n")
    for odd in ("._dseg.tsv", "__MACOSX/._dseg.tsv"):
        (tmp_path / odd).parent.mkdir(exist_ok=True)
        (tmp_path / odd).write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        \0\2\0\0\0\t\0\0\0\x32\0\0\x0e\xb0")
    assert read_dataset(tmp_path).labels[:1] == ("liver",)
