"""Images beside their labels, in one folder or in a folder for each case, are a dataset as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dicom_maker import write_series
from folder_maker import SHAPE, image, label, refused_in_one_line
from image_files import volume

from sam_monai.data import LoadCased, examine, images_to_segment, read_dataset
from sam_monai.data.channels import FILES
from sam_monai.inference.outputs import Outputs


def pairs(top: Path, form: str, number: int = 6) -> Path:
    """``form``: the paths of a case's image and label, in which * is its name."""
    of_image, of_label = form.split()
    for i in range(number):
        image(top / of_image.replace("*", f"p{i}"))
        label(top / of_label.replace("*", f"p{i}"))
    return top


FORMS = [
    "*.nii.gz *_seg.nii.gz", "*.nii.gz *-label.nii.gz", "*_image.nii.gz *_mask.nii.gz", "img_*.nii.gz label_*.nii.gz",
    "*/ct.nii.gz */segmentation.nii.gz", "*/*.nii.gz */*_seg.nii.gz", "*/image.nii.gz */label.nii.gz",
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_each_image_has_the_label_of_its_name(tmp_path, form, caplog):
    caplog.set_level("INFO")
    dataset = read_dataset(pairs(tmp_path, form))
    of_image, of_label = form.split()
    cases = [*dataset.training, *dataset.validation]
    assert len(dataset.training) == 5 and len(dataset.validation) == 1 and dataset.spatial_dims == 3
    for case in cases:
        name = next(f"p{i}" for i in range(6) if f"p{i}" in case["image"].removeprefix(str(tmp_path)))
        assert case["image"] == str(tmp_path / of_image.replace("*", name))
        assert case["label"] == str(tmp_path / of_label.replace("*", name))
    assert "no split is stated, so every fifth case validates" in caplog.text
    examine(dataset)


def test_the_sequences_of_a_case_are_its_channels(tmp_path):
    for i in range(6):
        for name in ("t1", "flair"):
            image(tmp_path / f"BraTS_{i:03d}/BraTS_{i:03d}_{name}.nii.gz")
        label(tmp_path / f"BraTS_{i:03d}/BraTS_{i:03d}_seg.nii.gz")
    dataset = read_dataset(tmp_path)
    assert dataset.channels == ("flair", "t1")
    assert [Path(file).name for file in dataset.training[0][FILES]] == ["BraTS_000_flair.nii.gz", "BraTS_000_t1.nii.gz"]
    loaded = LoadCased(("image", "label"), dataset.labels, channel_names=dataset.channels)(dataset.training[0])
    assert len(loaded["image"]) == 2
    (tmp_path / "BraTS_003/BraTS_003_t1.nii.gz").rename(tmp_path / "BraTS_003/BraTS_003_t2.nii.gz")
    refused_in_one_line(tmp_path, lambda _: None, "BraTS_003: has the images flair, t2, and BraTS_000 has flair, t1")


def new(top: Path) -> None:
    image(pairs(top, FORMS[0]) / "new.nii.gz")


def lone(top: Path) -> None:
    label(pairs(top, FORMS[0]) / "q_seg.nii.gz")


def twice(top: Path) -> None:
    label(pairs(top, FORMS[0]) / "p3_mask.nii.gz")


def many(top: Path) -> None:
    label(pairs(top, FORMS[4]) / "p3/mask.nii.gz")


def unlabelled(top: Path) -> None:
    image(pairs(top, FORMS[4]) / "q/ct.nii.gz")


def no_image(top: Path) -> None:
    label(pairs(top, FORMS[4]) / "q/segmentation.nii.gz")


def loose(top: Path) -> None:
    image(pairs(top, FORMS[4]) / "x.nii.gz")


def split(top: Path) -> None:
    (pairs(top, FORMS[0]) / "test.txt").write_text("p1\n")


def test_slices_of_dicom_beside_a_label_are_one_image(tmp_path):
    for i in range(5):
        array = np.random.default_rng(i).integers(0, 99, (*SHAPE[:2], 4 + i)).astype(np.int16)
        write_series(tmp_path / f"p{i}", array, np.eye(4))
        volume(tmp_path / f"p{i}/label.nii.gz", (array > 50).astype(np.uint8))
    dataset = read_dataset(tmp_path)
    assert dataset.channels == () and [Path(case["image"]).name for case in dataset.training] == [
        "p0",
        "p1",
        "p2",
        "p3",
    ]
    assert LoadCased("image")(dataset.training[0])["image"].shape == (1, *SHAPE[:2], 4)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (new, r"new\.nii\.gz: has no label"),
        (lone, r"q_seg\.nii\.gz: no image beside it has this name"),
        (twice, r"p3_(seg|mask)\.nii\.gz: p3_(seg|mask)\.nii\.gz is a label of p3\.nii\.gz too"),
        (many, r"p3: one label is needed beside an image, and there is ct\.nii\.gz, mask\.nii\.gz, segmentation"),
        (unlabelled, r"q: one label is needed beside an image, and there is ct\.nii\.gz"),
        (no_image, r"q: one label is needed beside an image, and there is segmentation\.nii\.gz"),
        (loose, r"x\.nii\.gz lies beside the folders of the cases"),
        (split, r"test\.txt beside them is not read, which states a split"),
    ],
)
def test_what_is_no_pair_is_refused_in_one_line(tmp_path, make, said):
    refused_in_one_line(tmp_path, make, said)


def test_masks_that_this_package_wrote_are_no_labels_before_somebody_corrects_them(tmp_path):
    pairs(tmp_path, FORMS[0])
    for i in range(6):
        mask = tmp_path / f"p{i}_seg.nii.gz"
        with Outputs(tmp_path).writing(tmp_path / f"p{i}_mask.nii.gz", f"{tmp_path}/p{i}.nii.gz") as part:
            part.write_bytes(mask.read_bytes())
        mask.unlink()
    refused_in_one_line(tmp_path, lambda _: None, "holds no dataset.json and has no other known form")
    for i in range(6):
        label(tmp_path / f"p{i}_mask.nii.gz", (1,))
    assert len(read_dataset(tmp_path).training) == 5


def test_to_segment_such_a_folder_is_to_segment_its_images(tmp_path):
    """Whether a file is another's mask is not guessed there: a mask that is segmented shows, an image that is not does
    not."""
    pairs(tmp_path, FORMS[0], 2)
    assert len(images_to_segment(tmp_path, spatial_dims=3)) == 4
