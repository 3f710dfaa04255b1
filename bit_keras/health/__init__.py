"""The health of a training, from its records: files and numbers only, no TensorFlow.

`LossWindows` gives the means of the loss that a trainer records; `verdicts` says in words what the
records of a run show. docs/health.md says what each sentence means and where it comes from.
"""

from __future__ import annotations

from bit_keras.health.finding import Finding as Finding
from bit_keras.health.verdicts import verdicts as verdicts
from bit_keras.health.windows import LossWindows as LossWindows
