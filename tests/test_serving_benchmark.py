import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tensorflow_serving")
pytest.importorskip("uvicorn")


@pytest.mark.long
def test_the_benchmark_compares_the_server_with_direct_calls():
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.serving", "--arch=26x0.25", "--image_size=32",
         "--batch=4", "--seconds=1", "--rounds=2"],
        capture_output=True, text=True, timeout=600, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    found = re.search(r"served / direct: (\d+\.\d\d)", run.stdout)
    assert found, run.stdout
    assert float(found[1]) > 0
    assert "server, 12 requests under way" in run.stdout
