"""The command that writes the dataset.json of a folder: what training then reads is what was understood."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from folder_maker import image, label, nnunet, pairs, segmentations
from image_files import volume
from PIL import Image

from sam_monai.__main__ import main
from sam_monai.data import check_dataset, images_to_segment, read_dataset
from sam_monai.results.dataset_file import write_dataset


def failed(capsys, *arguments) -> str:
    assert main(["dataset", *map(str, arguments)]) == 1
    return capsys.readouterr().err.splitlines()[-1]


def test_names_are_given_to_labels_and_the_folder_may_move(tmp_path, capsys):
    before = read_dataset(pairs(tmp_path / "a"))
    assert main(["dataset", str(tmp_path / "a"), "--labels", "liver, tumour", "--modality", "RGB"]) == 0
    said = capsys.readouterr().out
    assert "images/ with labels/" in said and str(tmp_path / "a/dataset.json") in said
    (tmp_path / "a").rename(tmp_path / "b")
    dataset = read_dataset(tmp_path / "b")
    assert dataset.labels == ("liver", "tumour") and dataset.intensity == "picture" and check_dataset(dataset) == []
    for part in ("training", "validation"):
        moved = [Path(case["image"]).name for case in getattr(dataset, part)]
        assert moved == [Path(case["image"]).name for case in getattr(before, part)]
    content = json.loads((tmp_path / "b/dataset.json").read_text())
    assert content["training"][0] == {"image": "images/c0.png", "label": "labels/c0.png"}


def colours(file: Path) -> int:
    with Image.open(file) as picture:
        return len(picture.convert("RGB").getcolors(1 << 24) or [])


def test_three_cases_are_drawn_with_their_labels(tmp_path):
    for name, suffix in (("pictures", ".png"), ("volumes", ".nii.gz")):
        folder = pairs(tmp_path / name, suffix=suffix)
        assert main(["dataset", str(folder), "--labels", "a,b"]) == 0
        with Image.open(folder / "dataset.png") as drawn:
            assert drawn.format == "PNG" and drawn.height > 1.2 * drawn.width  # three rows of two columns
        before = (folder / "dataset.png").read_bytes()
        label(folder / "labels" / f"c0{suffix}", (1,), rows=9)  # the first case is among the three
        assert main(["dataset", str(folder), "--labels", "a,b"]) == 0
        assert (folder / "dataset.png").read_bytes() != before and colours(folder / "dataset.png") > 200


def test_what_the_command_wrote_it_may_replace_and_nothing_else(tmp_path, capsys):
    folder = segmentations(tmp_path / "s", names=("liver", "kidney_left", "spleen"))
    assert main(["dataset", str(folder), "--labels", "spleen"]) == 0
    assert main(["dataset", str(folder), "--labels", "kidney left,liver"]) == 0
    dataset = read_dataset(folder)
    assert dataset.labels == ("kidney left", "liver") and dataset.intensity == "ct" and check_dataset(dataset) == []
    content = (folder / "dataset.json").read_text().replace("kidney left", "kidney")
    (folder / "dataset.json").write_text(content)
    assert "dataset.json: is there and was not written by this command, or was changed" in failed(capsys, folder)
    assert (folder / "dataset.json").read_text() == content
    (folder / "dataset.json").unlink()
    shutil.copy(folder / "s0000/ct.nii.gz", folder / "dataset.png")
    assert "dataset.png: is there" in failed(capsys, folder)
    assert not (folder / "dataset.json").exists()


def test_one_channel_of_nnunets_data_is_a_dataset_beside_it(tmp_path, capsys):
    folder = nnunet(tmp_path / "Dataset001", channels=2)
    before = (folder / "dataset.json").read_text()
    assert main(["dataset", str(folder), "--output", str(tmp_path / "both")]) == 0
    both = read_dataset(tmp_path / "both")
    assert both.channels == ("CT", "T2") and both.intensity == ["ct", "mr"] and check_dataset(both) == []
    assert [[path[-12:] for path in case["channel_files"]] for case in both.test] == [["_0000.nii.gz", "_0001.nii.gz"]]
    assert "--output" in failed(capsys, folder, "--channel", 1)
    assert "no channel named PD (there are CT, T2" in failed(capsys, folder, "--channel", "PD", "--output", tmp_path)
    assert main(["dataset", str(folder), "--channel", "t2", "--output", str(tmp_path / "named")]) == 0
    assert main(["dataset", str(folder), "--channel", "1", "--output", str(tmp_path / "one")]) == 0
    lists = [json.loads((tmp_path / name / "dataset.json").read_text()) for name in ("named", "one")]
    assert lists[0] == lists[1]
    dataset = read_dataset(tmp_path / "one")
    assert dataset.labels == ("liver", "tumour") and dataset.intensity == "mr" and check_dataset(dataset) == []
    assert {case["image"][-12:] for case in dataset.training + dataset.test} == {"_0001.nii.gz"}
    assert (folder / "dataset.json").read_text() == before
    (folder / "imagesTr/case_3_0001.nii.gz").unlink()
    said = failed(capsys, folder, "--channel", 1, "--output", tmp_path / "one")
    assert "case_3 has no file case_3_0001" in said


def test_folds_that_are_stated_stay_folds(tmp_path):
    names = [f"case_{i}" for i in range(6)]
    split = [{"train": [n for n in names if n not in val], "val": val} for val in (names[4:], names[:2], names[2:4])]
    (nnunet(tmp_path / "n") / "splits_final.json").write_text(json.dumps(split))
    assert main(["dataset", str(tmp_path / "n"), "--output", str(tmp_path / "written")]) == 0
    content = json.loads((tmp_path / "written/dataset.json").read_text())
    assert [case["fold"] for case in content["training"]] == [1, 1, 2, 2, 0, 0] and content["validation"] == []
    assert all("fold" not in case for case in content["test"])
    for fold in (None, 0, 1, 2):
        before, after = (read_dataset(tmp_path / name, fold=fold) for name in ("n", "written"))
        assert before.training == after.training and before.validation == after.validation


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--labels", "liver"], "has the value 2, and 1 labels are named"),
        (["--labels", "liver,liver"], "same name twice"),
        (["--labels", "liver,"], "empty name"),
    ],
)
def test_names_that_do_not_fit_are_refused_and_nothing_is_written(tmp_path, capsys, options, said):
    assert said in failed(capsys, pairs(tmp_path), *options)
    assert {path.name for path in tmp_path.iterdir()} == {"images", "labels"}


def test_unknown_masks_and_folders_are_named(tmp_path, capsys):
    assert "there is no mask of 'pancreas'; there are kidney left, liver" in failed(
        capsys, segmentations(tmp_path / "s"), "--labels", "pancreas"
    )
    assert "no such folder" in failed(capsys, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "has no other known form" in failed(capsys, tmp_path / "empty")


def test_a_name_of_which_no_mask_holds_the_value_is_told(tmp_path, caplog):
    assert main(["dataset", str(pairs(tmp_path)), "--labels", "a,b,necrosis"]) == 0
    assert 'no training label holds "necrosis" (value 3): the network cannot learn it' in caplog.text
    assert caplog.text.count("cannot learn it") == 1


def test_a_folder_that_has_changed_since_its_list_was_written_is_told_of(tmp_path, caplog):
    folder = segmentations(tmp_path / "a")
    assert main(["dataset", str(folder)]) == 0
    read_dataset(folder)
    assert "has changed since" not in caplog.text
    first = sorted(path for path in folder.iterdir() if path.is_dir() and path.name != "written")[0]
    shutil.copytree(first, folder / "added")
    before = read_dataset(folder)
    assert f"{folder / 'dataset.json'}: was made of a, which has changed since: 1 label not in it" in caplog.text
    assert not any("added" in case["image"] for case in (*before.training, *before.validation))
    assert main(["dataset", str(folder)]) == 0
    caplog.clear()
    now = read_dataset(folder)
    assert any("added" in case["image"] for case in (*now.training, *now.validation))
    assert "has changed since" not in caplog.text


def test_a_table_whose_split_has_changed_since_is_told_of(tmp_path, caplog):
    folder = pairs(tmp_path / "a")
    folder.rename(tmp_path / "b"), (tmp_path / "a").mkdir()
    lines = [f"../b/images/c{i}.png,../b/labels/c{i}.png,{'val' if i == 0 else 'train'}" for i in range(4)]
    (tmp_path / "a/cases.csv").write_text("\n".join(["image,label,split", *lines]))
    assert main(["dataset", str(tmp_path / "a"), "--labels", "a,b"]) == 0
    read_dataset(tmp_path / "a")
    assert "has changed since" not in caplog.text
    lines[0], lines[1] = lines[0].replace("val", "train"), lines[1].replace("train", "val")
    (tmp_path / "a/cases.csv").write_text("\n".join(["image,label,split", *lines]))
    read_dataset(tmp_path / "a")
    assert "2 labels in another part of the split" in caplog.text


def test_one_modality_is_that_of_all_channels_which_keep_their_names(tmp_path, capsys):
    folder = nnunet(tmp_path / "n", channels=2, channel_names={"0": "arterial", "1": "venous"})
    assert main(["dataset", str(folder), "--modality", "CT", "--output", str(tmp_path / "o")]) == 0
    assert "intensities: ct" in capsys.readouterr().out
    dataset = read_dataset(tmp_path / "o")
    assert dataset.intensity == "ct" and dataset.channels == ("arterial", "venous") and dataset.modality == ("CT",)


def test_a_table_of_windows_is_read_as_it_is_listed_with_its_folds(tmp_path):
    folder = pairs(tmp_path, 6, "a", "b")
    rows = [f"a\\c{i}.png,b\\c{i}.png,{i % 2}\n" for i in range(6)]
    (folder / "list.csv").write_text("image,label,fold\n" + "".join(rows))
    assert all(Path(case["image"]).is_file() for case in images_to_segment(folder))
    assert main(["dataset", str(folder), "--labels", "x,y"]) == 0
    names = [Path(case["image"]).name for case in read_dataset(folder, fold=1).validation]
    assert names == ["c1.png", "c3.png", "c5.png"]


def test_a_channel_is_taken_of_a_list_of_cases_too(tmp_path, capsys):
    cases = []
    for i in range(3):
        files = [str(image(tmp_path / f"r{i}_{name}.nii.gz").name) for name in ("T1", "T2")]
        cases.append({"image": files, "label": label(tmp_path / f"l{i}.nii.gz").name})
    content = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"0": "background", "1": "a", "2": "b"}}
    (tmp_path / "dataset.json").write_text(json.dumps(content | {"training": cases[:2], "validation": cases[2:]}))
    assert "no channel named PD" in failed(capsys, tmp_path, "--channel", "PD", "--output", tmp_path / "o")
    assert main(["dataset", str(tmp_path), "--channel", "T2", "--output", str(tmp_path / "o")]) == 0
    dataset = read_dataset(tmp_path / "o")
    assert dataset.channels == () and dataset.training[0]["image"].endswith("r0_T2.nii.gz")
    assert "channel_files" not in dataset.training[0]
    one = pairs(tmp_path / "one")
    assert "one file each, so there is no channel 1" in failed(capsys, one, "--channel", "1")


def test_what_channels_are_is_kept_beside_their_names(tmp_path):
    for i in range(3):
        for name in ("a", "v"):
            image(tmp_path / f"d/{i}_{name}.nii.gz")
        label(tmp_path / f"d/{i}_l.nii.gz")
    cases = [{"image": [f"{i}_a.nii.gz", f"{i}_v.nii.gz"], "label": f"{i}_l.nii.gz"} for i in range(3)]
    content = {
        "modality": {"0": "CT", "1": "CT"}, "channel_names": {"0": "arterial", "1": "venous"},
        "labels": {"0": "background", "1": "a", "2": "b"}, "training": cases[:2], "validation": cases[2:],
    }  # fmt: skip
    (tmp_path / "d/dataset.json").write_text(json.dumps(content))
    write_dataset(tmp_path / "d", ["x", "y"], output=tmp_path / "e")
    write_dataset(tmp_path / "d", ["x", "y"], channel="venous", output=tmp_path / "f")
    both, one = read_dataset(tmp_path / "e"), read_dataset(tmp_path / "f")
    assert both.channels == ("arterial", "venous") and both.intensity == one.intensity == "ct"


def test_the_labels_of_one_time_point_are_named_though_the_images_have_several(tmp_path):
    for i in range(3):
        (tmp_path / "images").mkdir(exist_ok=True)
        volume(tmp_path / f"images/{i}.nii.gz", np.random.default_rng(i).random((9, 8, 3, 5)).astype(np.float32))
        label(tmp_path / f"labels/{i}.nii.gz", (1,))
    write_dataset(tmp_path, ["tumour"])
    assert read_dataset(tmp_path).labels == ("tumour",) and (tmp_path / "dataset.png").is_file()
