"""What pre-training is worth: pre-trained against from scratch, on small tasks (docs/transfer.md).

python -m benchmarks.transfer.run --work runs/transfer    # hours on two cores; goes on if killed
python -m benchmarks.transfer.table --work runs/transfer  # writes docs/transfer.md and its picture
"""
