"""`imagenet21k`: the official ImageNet-21k archives, prepared on Apache Beam."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from absl import logging

from bit_keras.datasets.archives import TRAIN, VALIDATION, Archive, read_archive
from bit_keras.datasets.synsets import ancestors, read_is_a, read_labels, with_ancestors

# As `winter21_whole.tar.gz` unpacks, and what `fall11_whole.tar`, which has no folder, goes into.
FOLDERS = ("winter21_whole", "fall11_whole", "imagenet21k")
LABELS = "labels.txt"
IS_A = "wordnet.is_a.txt"
SKIPPED = "skipped.tsv"
COUNTERS = "imagenet21k"  # namespace of the Beam metrics


def archive_folder(manual_dir: Any) -> Any:
    """The folder of the archives in TFDS's manual_dir.

    Args:
        manual_dir: local or gs://, an `epath.Path`.

    Raises:
        FileNotFoundError: when there is none, or more than one, with what to put where.
    """
    found = [manual_dir / name for name in FOLDERS if (manual_dir / name).is_dir()]
    if len(found) != 1:
        told = ", ".join(str(folder) for folder in found) or "none of them"
        raise FileNotFoundError(
            f"{manual_dir} must hold one of the folders {', '.join(FOLDERS)}. Received: {told}. "
            f"{Imagenet21k.MANUAL_DOWNLOAD_INSTRUCTIONS}"
        )
    return found[0]


def list_archives(folder: Any) -> tuple[list[Archive], list[str], dict[str, int]]:
    """The archives of a folder, the names of all classes, and what does not match.

    Args:
        folder: holds one nXXXXXXXX.tar a synset; if wanted, labels.txt and wordnet.is_a.txt.

    Returns:
        The archives whose synset is a class, sorted; the classes, in the order of labels.txt, else
        sorted; and counts of archives without a class and classes without an archive.

    Raises:
        FileNotFoundError: when there is no archive; ValueError: for a damaged text file.
    """
    paths = {path.name[: -len(".tar")]: str(path) for path in folder.glob("n*.tar")}
    if not paths:
        raise FileNotFoundError(
            f"{folder} holds no n*.tar, one for each synset. "
            f"{Imagenet21k.MANUAL_DOWNLOAD_INSTRUCTIONS}"
        )
    names = read_labels(folder / LABELS) if (folder / LABELS).exists() else sorted(paths)
    parents = read_is_a(folder / IS_A) if (folder / IS_A).exists() else {}
    known = set(names)
    archives = [
        Archive(paths[synset], synset, with_ancestors(synset, ancestors(synset, parents), known))
        for synset in sorted(known & set(paths))
    ]
    if not archives:
        raise ValueError(f"{folder / LABELS} names none of the {len(paths)} synsets in {folder}.")
    unmatched = {
        "archives without a class": len(set(paths) - known),
        "classes without an archive": len(known - set(paths)),
    }
    return archives, names, unmatched


def _counted(archive: Archive) -> Iterator[Any]:
    """What `read_archive` yields as Beam's tagged outputs, counted by Beam's metrics."""
    import apache_beam as beam

    for kind, item in read_archive(archive):
        beam.metrics.Metrics.counter(COUNTERS, kind).inc()
        yield beam.pvalue.TaggedOutput(kind, item)


def _lines(skipped: Iterable[tuple[str, str]]) -> list[str]:
    return ["\t".join(entry) for entry in sorted(skipped)]


class Imagenet21k(tfds.core.GeneratorBasedBuilder):
    """All of ImageNet from its official archives, full size, one tar file for each synset.

    The winter 2021 release (`winter21_whole.tar.gz`) or that of fall 2011 (`fall11_whole.tar`, 14.2
    million images, as BiT-M has seen); terms of access: https://image-net.org/download.php.

    The classes are the synsets that have an archive, sorted, or the lines of `labels.txt`. With
    `wordnet.is_a.txt` (a line "PARENT CHILD" for each is-a relation) an image also has all
    hypernyms of its synset that are classes. One image in 256 is of the split validation, by the
    hash of its name. Files that cannot be decoded are left out; `skipped.tsv` beside the records
    names them, and the metadata counts them.

    Features: image uint8 [height, width, 3], JPEG (or PNG) files as they were; labels, the classes;
    name, SYNSET/FILE.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "Initial release."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Get an archive from https://image-net.org/download.php and unpack it, not the tar files "
        "in it, in manual_dir (DATA_DIR/downloads/manual):\n"
        "tar -xzf winter21_whole.tar.gz\n"
        "or: mkdir fall11_whole && tar -xf fall11_whole.tar -C fall11_whole\n"
        "Then: python -m bit_keras.datasets.prepare imagenet21k --data_dir=DATA_DIR"
    )

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                "labels": tfds.features.Sequence(tfds.features.ClassLabel()),
                "name": tfds.features.Text(),
            }
        )
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=features,
            homepage="https://image-net.org/",
            license="ImageNet terms of access",
            metadata=tfds.core.MetadataDict(),
        )

    def download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        """As TFDS's, with a `download_config` that has a beam_runner or beam_options.

        Raises:
            ValueError: without: no training should begin by working through a terabyte.
            ImportError: when Apache Beam is not installed.
        """
        config = kwargs.get("download_config")
        if not self.info.splits and not (config and (config.beam_runner or config.beam_options)):
            raise ValueError(
                f"imagenet21k is not in {self.data_dir}, and preparing it is a job of its own. "
                f"{self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
            )
        super().download_and_prepare(*args, **kwargs)

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager, pipeline: Any
    ) -> dict[str, Any]:
        import apache_beam as beam

        folder = archive_folder(dl_manager.manual_dir)
        archives, names, unmatched = list_archives(folder)
        logging.info("imagenet21k: %d archives in %s; %s", len(archives), folder, unmatched)
        self.info.features["labels"].feature.names = names
        self.info.metadata["release"] = folder.name
        self.info.metadata["archives"] = len(archives)
        self.info.metadata.update(unmatched)
        found = pipeline | "read" >> self._generate_examples(archives)
        report = str(self.data_path / SKIPPED)
        _ = (
            found["skipped"]
            | "all skipped" >> beam.combiners.ToList()
            | "sorted" >> beam.FlatMap(_lines)
            | "report" >> beam.io.WriteToText(report, num_shards=1, shard_name_template="")
        )
        return {split: found[split] for split in (TRAIN, VALIDATION)}

    def _generate_examples(self, archives: list[Archive]) -> Any:
        """A PTransform with the outputs train, validation and skipped: all is read once."""
        import apache_beam as beam

        return (
            beam.Create(archives)
            | beam.Reshuffle()  # otherwise one worker has them all
            | beam.FlatMap(_counted).with_outputs(TRAIN, VALIDATION, "skipped")
        )

    def _process_pipeline_result(self, pipeline_result: Any) -> None:
        counters = pipeline_result.metrics().query()["counters"]
        found = {
            c.key.metric.name: c.result for c in counters if c.key.metric.namespace == COUNTERS
        }
        self.info.metadata["skipped"] = found.get("skipped", 0)
