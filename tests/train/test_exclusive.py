"""One run at a time in a folder."""

import pytest

from gpt2x.errors import InvalidInputError
from gpt2x.train.exclusive import only_run


def test_a_second_run_is_refused_until_the_first_has_ended(tmp_path):
    folder = tmp_path / "new" / "run"
    another = pytest.raises(InvalidInputError, match=r"Another run is training into .*output_dir")
    with only_run(folder), only_run(tmp_path / "other"), another, only_run(folder):
        pass
    assert [*folder.iterdir()] == []
    with only_run(folder):
        pass
