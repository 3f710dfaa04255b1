from benchmarks import input_speed
from bit_keras.sources import load_source


def test_its_shards_are_photographs_that_the_input_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(input_speed, "IMAGES", 8)
    monkeypatch.setattr(input_speed, "BATCH", 4)
    size = input_speed.write_shards(tmp_path)
    assert 50_000 < size < 250_000  # bytes; ILSVRC-2012's files have 110 kB on average
    source = load_source(f"tfrecord:{tmp_path}/train-*.tfrecord")
    assert source.splits == {"train": 8}
    example = next(iter(source.examples("train")))
    assert example["image"].shape == (375, 500, 3)
    assert input_speed.input_rate(source, batches=2) > 0
