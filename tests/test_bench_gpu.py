"""The benchmark of devices has ResNet-50's units, and runs without a device."""

import importlib.util
import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "bench_gpu.py"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("bench_gpu", SCRIPT)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_quick_run(bench, tmp_path, monkeypatch):
    output = tmp_path / "report.json"
    monkeypatch.setattr("sys.argv", [str(SCRIPT), "--quick", "--output", str(output)])
    bench.main()
    report = json.loads(output.read_text())
    assert report["results"]["n_units"] == 26_560 // 16
    assert all(report["results"][key] > 0 for key in ("forwards_ms", "step_1_ms", "step_10_ms"))
    assert report["targets"] == {"forwards_ms": 50.0, "step_1_ms": 5.0, "peak_gb": 20.0}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device, and this would measure it")
def test_without_a_device_nothing_is_written(bench, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [str(SCRIPT)])
    monkeypatch.setattr(bench, "measure", None)
    bench.main()
    assert "no CUDA device: nothing is measured" in capsys.readouterr().out


def test_the_model_is_resnet50(bench):
    with torch.device("meta"):
        model = bench.resnet50()
        assert model(torch.empty(2, 3, 224, 224)).shape == (2, 1000)
    filters = sum(m.out_channels for m in model.modules() if isinstance(m, torch.nn.Conv2d))
    assert (filters, sum(p.numel() for p in model.parameters())) == (26_560, 25_557_032)
