from __future__ import annotations

import functools
import logging
import os
import random

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

import sam_monai.networks.embeddings
import sam_monai.networks.ssam
from sam_monai.errors import say_once, warn_once

if "PYTEST_XDIST_WORKER" in os.environ:  # two processes with a thread each do more than one with two
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # so do those that they start: threads wait for each other in vain

# The same examples on every machine, however slow it is.
HEALTH = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile("sam_monai", derandomize=True, deadline=None, suppress_health_check=HEALTH)
settings.load_profile("sam_monai")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """What a test logged travels between processes, which half of a character cannot."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(autouse=True)
def every_test_draws_the_same_numbers():
    """Whatever ran before it in its process."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def what_is_said_once_is_said_in_every_test():
    warn_once.cache_clear()
    say_once.cache_clear()


@pytest.fixture(autouse=True)
def no_log_handler_outlives_its_test():
    """Libraries add one to the root, which then writes to what was the standard error of a test that is over."""
    before = logging.root.handlers[:]
    yield
    logging.root.handlers[:] = [handler for handler in logging.root.handlers if handler in before]


@pytest.fixture(autouse=True, scope="session")
def label_vectors_are_computed_once():
    """The text encoder takes a moment to load; the same names are asked for in nearly every test."""
    module, real = sam_monai.networks.ssam, sam_monai.networks.ssam.encode_labels
    cached = functools.cache(lambda names, *others: real(names, *others))
    module.encode_labels = lambda names, *others: cached(tuple(names), *others).clone()
    yield
    module.encode_labels = real


@pytest.fixture(autouse=True, scope="session")
def the_cache_is_kept_apart(tmp_path_factory):
    """Not that of who runs the tests, whose files would hide what is made wrong now; one for all workers."""
    own = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAM_MONAI_CACHE", str((own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "cache"))
        yield


@pytest.fixture(autouse=True, scope="session")
def embeddings_are_kept_apart(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embeddings")
    sam_monai.networks.embeddings.default_folder = lambda: folder
