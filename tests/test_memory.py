import re

import pytest

from bit_keras.memory import check_fits, machine_bytes, update_bytes
from bit_keras.presets import Architecture

R50 = Architecture(50, 1)


def test_estimate_is_near_what_was_measured():
    # Peak resident memory, R50x1 at 224: 1,676 MB with 4 images and 2,032 MB with 8.
    per_image = (update_bytes(R50, 224, 8) - update_bytes(R50, 224, 4)) / 4
    assert per_image == pytest.approx(89e6, rel=0.15)
    # R26x0.5 at 128: 808 MB with 1 image and 1,083 MB with 32.
    small = Architecture(26, 0.5)
    per_image = (update_bytes(small, 128, 32) - update_bytes(small, 128, 1)) / 31
    assert per_image == pytest.approx(8.9e6, rel=0.3)


def test_a_batch_that_fits_is_accepted():
    check_fits(R50, 128, 32, 24 * 10**9)


def test_the_rules_batch_on_a_laptop_is_refused_with_one_that_fits():
    with pytest.raises(ValueError, match=r"R50x1 with 512 images of 384×384 .* GB") as error:
        check_fits(R50, 384, 512, 24 * 10**9)
    fitting = int(re.search(r"--batch_size=(\d+)", str(error.value))[1])
    assert update_bytes(R50, 384, fitting) <= 0.6 * 24 * 10**9 < update_bytes(R50, 384, 2 * fitting)
    check_fits(R50, 384, fitting, 24 * 10**9)


def test_nothing_is_refused_where_memory_is_unknown():
    check_fits(R50, 384, 512, None)


def test_this_machine_has_memory():
    assert machine_bytes() > 10**9
