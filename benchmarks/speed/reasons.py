"""Why targets are missed, where a part does not say it itself; with the profiles' figures in reach.

The figures named here are in the same document: the tables of the parts and the profiles.
"""

from __future__ import annotations

from benchmarks.speed.results import Target

_NORMALISATION = (
    "In TensorFlow a normalisation and its ReLU are several operations, each of which reads and "
    "writes its tensor (target 6)"
)
# Number of the target and words of what it asks, and why it is missed.
REASONS: tuple[tuple[str, str, str], ...] = (
    (
        "1", "fastest peer",
        f"{_NORMALISATION}; the profile shows their share of the step, and with one image a call "
        "also what some two thousand small operations cost. OpenVINO compiles the graph for this "
        "very size of batch, computes a normalisation in one operation and adds shortcuts inside "
        "the convolutions. Against the peers that run the same operations one by one "
        "(timm, Hugging Face, onnxruntime, stock Keras) see the table. Who can leave TensorFlow "
        "gets the same network by `bit-keras convert` for OpenVINO and LiteRT.",
    ),
    (
        "1", "matrix product",
        "The convolutions come near the product of large matrices (the profile's last column), "
        "but normalisation, ReLU and additions take what the profile shows beside them. With all "
        "normalisation left out, a network that computes nonsense, the same graph reaches about "
        "0.8 of the ceiling (docs/speed.md): in TensorFlow's operations 0.85 is out of reach.",
    ),
    (
        "2", "inference, bfloat16",
        f"{_NORMALISATION}, and statistics, scale and shift are float32, so that every tensor is "
        "widened and narrowed on the way. Convolutions are twice as fast as in float32 and these "
        "passes are not: they take half of the step (the profile). OpenVINO fuses them.",
    ),
    (
        "4", "timm",
        "Both call oneDNN for the same convolutions and their gradients, which take about two "
        "thirds of the step (the profile); the rest would have to vanish for a ratio of 1.3. "
        "PyTorch's group norm is one operation, ours several.",
    ),
    (
        "4", "our float32",
        "Gradients of kernels reach about 60 % of bfloat16's ceiling in oneDNN, and what is not "
        "a convolution is as long as in float32: normalisation and standardisation are computed "
        "in float32, and every tensor is widened and narrowed on the way (the profile's casts).",
    ),
    (
        "5", "peak",
        "Weights, momentum, the gradients' sum and the standardised kernels are held whatever the "
        "number of parts.",
    ),
    (
        "5", "time",
        "Rematerialisation computes the forward pass twice, four thirds of the operations, and "
        "small parts use the processor less well.",
    ),
    (
        "8", "folder",
        "From a folder every image is decoded whole, by Pillow in Python, so that any format and "
        "any broken file is dealt with. Record shards (`bit-keras data`) are decoded and cropped "
        "in one step.",
    ),
)  # fmt: skip


def reason(target: Target) -> str:
    """Why a target is missed: what its part says, or else what is known here."""
    if target.why:
        return target.why
    for number, words, text in REASONS:
        if target.number == number and words in target.asked:
            return text
    return "Not explained yet."
