"""What is timed, by name."""

from __future__ import annotations

from collections.abc import Callable

from .inference import encoder_vit_b, encoder_vit_t, exported, growth, second_click, volume
from .job import Job
from .training import epoch, first_step, imports, training_vit_b, training_vit_t

JOBS: dict[str, Callable[[], Job]] = {
    **{f"encoder vit_b {s} px, batch {b}": (lambda s=s, b=b: encoder_vit_b(s, b))
       for s, b in ((1024, 1), (1024, 8), (512, 1), (512, 8), (256, 1), (256, 8))},
    **{f"encoder vit_t {s} px, batch {b}": (lambda s=s, b=b: encoder_vit_t(s, b)) for s in (256, 128) for b in (1, 8)},
    "S-SAM training step, vit_b 256 px, 4 images": lambda: training_vit_b("S-SAM", 4),
    "PTSAM training step, vit_b 256 px, 4 images": lambda: training_vit_b("PTSAM", 4),
    "Med-SA training step, vit_b 256 px, 8 slices": lambda: training_vit_b("Med-SA", 8),
    "training step, vit_t 128 px, 4 images": training_vit_t,
    "epoch of 16 images, vit_t 128 px": epoch,
    "volume of 32 slices, vit_t 128 px, 1 label": lambda: volume(1),
    "volume of 32 slices, vit_t 128 px, 2 labels": lambda: volume(2),
    "volume of 32 slices, vit_t 128 px, 13 labels": lambda: volume(13),
    **{f"exported S-SAM, vit_t {s} px, batch {b}": (lambda s=s, b=b: exported(s, b))
       for s, b in ((128, 1), (128, 8), (256, 1))},
    "second click, vit_b 256 px": second_click,
    "import": imports,
    "time to the first training step": lambda: first_step("ssam"),
    "growth with slices": lambda: growth({f"{n} slices": (n, 1, 128) for n in (8, 16, 32, 64)}),
    "growth with labels": lambda: growth({f"{n} labels": (8, n, 128) for n in (1, 2, 4, 8, 16)}),
    "growth with pixels": lambda: growth({f"{n} x {n} pixels": (8, 1, n) for n in (64, 128, 256)}),
}  # fmt: skip
