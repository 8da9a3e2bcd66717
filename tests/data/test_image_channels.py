"""An adapter of grey images takes no colours, and one of colours no grey images, without a word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from image_files import picture, volume
from monai.transforms import Compose
from network_tester import tiny_backbone

from sam_monai import PTSAM, InputError
from sam_monai.bundle import folder
from sam_monai.bundle.folder import record
from sam_monai.data import LoadCased, channels_picked, image_channels
from sam_monai.data.preparing import preparing
from sam_monai.errors import input_error_in
from sam_monai.networks import identity
from sam_monai.networks.adapter_files import write_adapter

SETTINGS = {"spatial_dims": 2, "intensity": "picture", "ct_window": [-160, 240], "orientation": "coarsest",
            "spacing": None, "channels": None, "scale": "whole"}  # fmt: skip
RNG = np.random.default_rng(0)
GREY, COLOUR = (RNG.integers(0, 256, shape, dtype=np.uint8) for shape in ((20, 24), (20, 24, 3)))
GREY_AS_RGB = np.repeat(GREY[..., None], 3, -1)


def prepared(path: str, wanted: int | None, channels: list[int] | None = None, dims: int = 2):
    settings = SETTINGS | {"image_channels": wanted, "channels": channels, "spatial_dims": dims}
    try:
        return Compose([LoadCased("image", channels=channels), *preparing(settings)])({"image": path})["image"]
    except RuntimeError as error:  # MONAI's, around it
        raise input_error_in(error) or error from None


@pytest.mark.parametrize(
    ("array", "wanted", "channels"),
    [
        (COLOUR, 1, None),
        (GREY, 3, None),
        (GREY, 3, [0]),
        (COLOUR, 3, [1]),
        (COLOUR, 1, [0, 1, 2]),
        (COLOUR, 1, [2, 1, 0]),
    ],
)
def test_images_of_the_other_kind_are_refused_by_name(tmp_path, array, wanted, channels):
    with pytest.raises(InputError, match=r"a\.png is (grey|in colour) .* and the adapter is for") as error:
        prepared(picture(tmp_path / "a.png", array), wanted, channels)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("array", "wanted", "channels"),
    [
        (GREY, 1, None),
        (COLOUR, 3, None),
        (GREY_AS_RGB, 1, None),
        (GREY_AS_RGB, 3, None),
        (COLOUR, 1, [1]),
        (GREY, 3, [0, 0, 0]),
        (GREY, None, None),
        (COLOUR, None, None),
    ],
)
def test_images_of_its_kind_are_taken(tmp_path, array, wanted, channels):
    assert prepared(picture(tmp_path / "a.png", array), wanted, channels).shape[1:] == (20, 24)


def test_volumes_of_colours_are_told_from_grey_ones(tmp_path):
    rgb = RNG.integers(0, 256, (12, 10, 4, 3), dtype=np.uint8)
    colours = np.ascontiguousarray(rgb).view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    path = volume(tmp_path / "a.nii.gz", colours)
    assert prepared(path, 3, dims=3).shape[0] == 3
    with pytest.raises(InputError, match=r"a\.nii\.gz is in colour"):
        prepared(path, 1, dims=3)


def test_training_records_what_its_first_image_is(tmp_path):
    grey, colour = picture(tmp_path / "g.png", GREY), picture(tmp_path / "c.png", COLOUR)
    (tmp_path / "broken.png").write_bytes(b"x")
    assert image_channels([{"image": grey}, {"image": colour}]) == 1
    assert image_channels([{"image": colour}]) == 3
    assert image_channels([{"image": colour}], [2]) == 1
    assert image_channels([{"image": grey}], [0, 0, 0]) == 3
    assert channels_picked([{"image": grey}], [0]) is None  # as good as no key: an adapter then refuses colours
    assert channels_picked([{"image": colour}], [0]) == [0] and channels_picked([{"image": grey}], [0, 0, 0]) == [0] * 3
    # Left to the check of the dataset, which names all that is wrong.
    for cases in ([], [{"image": str(tmp_path / "broken.png")}], [{}]):
        assert image_channels(cases) is None


def test_a_record_of_before_says_nothing_of_it_and_is_not_checked():
    old = {"method": "ptsam", "tokens": 8, "encoder_prompts": 0, "backbone": "x", "base": "random", "labels": ["a"],
              "image_size": 32, "resize": "pad", "depth_attention": False, "preprocessing": SETTINGS}  # fmt: skip
    now = old | {"channel_names": None, "temperature": 1.0}
    assert identity.check(old) == now == identity.check(old | {"detail": False})
    assert folder.checked(old | {"backbone": "lite_medsam"}, "a")["preprocessing"]["image_channels"] is None
    for odd in (65, 0, "1", True, 1.0, [1]):
        with pytest.raises(InputError, match="preprocessing"):
            identity.check(old | {"preprocessing": SETTINGS | {"image_channels": odd}})


def test_an_adapter_of_before_is_not_checked_whatever_its_bundle_says(tmp_path):
    network = PTSAM(tiny_backbone(), labels=["a"], preprocessing=SETTINGS)
    network.base_name = "vit_b"
    network.set_labels(["a"])
    write_adapter(network.state_dict(), tmp_path / "model.pt")
    root = Path(__file__).parents[2] / "bundles/ptsam"
    assert record(root, tmp_path / "none.pt")["preprocessing"]["image_channels"] == 1
    assert record(root, tmp_path / "model.pt")["preprocessing"]["image_channels"] is None


def test_the_key_channels_is_kept_where_any_image_has_more(tmp_path):
    """The first one alone would not tell: the others would be loaded without it."""
    grey, colour = picture(tmp_path / "g.png", GREY), picture(tmp_path / "c.png", COLOUR)
    assert channels_picked([{"image": grey}, {"image": colour}], [0]) == [0]
    assert channels_picked([{"image": grey}], [0]) is None and channels_picked([{"image": colour}], [0]) == [0]
    assert channels_picked([{"image": colour}, {"image": colour}], [0, 1, 2]) is None
    with_alpha = picture(tmp_path / "a.png", np.dstack([COLOUR, np.full((20, 24), 255, np.uint8)]))
    assert channels_picked([{"image": colour}, {"image": with_alpha}], [0, 1, 2]) == [0, 1, 2]
    flat, deep = (volume(tmp_path / f"{n}.nii.gz", np.ones((4, 4, 3, *n), np.float32)) for n in ((), (2,)))
    assert channels_picked([{"image": flat}, {"image": deep}], [0]) == [0]
