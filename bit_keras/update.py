"""One update on one replica: loss, gradient, their sum over replicas, and the optimizer's step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from bit_keras.layers import standardized_convolutions, using_kernels
from bit_keras.losses import softmax_loss

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
Share = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, list[tf.Tensor]]]


class Update:
    """What `strategy.run` runs for every batch; all tensors, no host operations, static shapes.

    Model and optimizer must have been made within the strategy's scope.

    Args:
        model: maps images [B, H, W, 3] to logits [B, K].
        optimizer: an `optimizers.SGD`, or a Keras LossScaleOptimizer around one.
        batch_size: examples over all replicas; the loss is their mean.
        loss: (labels [B, K], logits [B, K]) → losses [B].
        forward: computes the logits in training; the model itself when left out.
        microbatches: parts in which a replica computes its share one after the other, for less
            memory. The gradients are their sum, the same but for rounding.
        watched: kernels whose common norm is recorded, and the gradient's with it.

    Attributes:
        names: what the numbers that an update returns are.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: Any,
        batch_size: int,
        *,
        loss: Loss = softmax_loss,
        forward: Callable[[tf.Tensor], tf.Tensor] | None = None,
        microbatches: int = 1,
        watched: Sequence[keras.Variable] = (),
    ) -> None:
        self.model, self.optimizer, self.batch_size = model, optimizer, batch_size
        self.loss, self.microbatches, self.watched = loss, microbatches, list(watched)
        self.forward = forward or (lambda images: model(images, training=True))
        getattr(optimizer, "inner_optimizer", optimizer).reduced = True
        self.names = ("loss", "gradient_norm", "weight_norm") if watched else ("loss",)

    def __call__(self, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Does one replica's part of an update.

        Returns:
            float32 [len(names)], this replica's share of each number: their sum over the replicas
            is the number.
        """
        share, gradients = self._accumulated(images, labels)
        context = tf.distribute.get_replica_context()
        gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        numbers = [tf.cast(share, tf.float32)]
        if self.watched:  # the same on every replica: each gives its part of the sum
            norms = (self._unscaled_norm(gradients), _norm([v.value for v in self.watched]))
            numbers += [norm / context.num_replicas_in_sync for norm in norms]
        variables = self.model.trainable_variables
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return tf.stack(numbers)

    def _accumulated(
        self, images: tf.Tensor, labels: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """The replica's share of the loss, and its (perhaps scaled) gradients."""
        variables = self.model.trainable_variables
        if self.microbatches == 1:
            return self._share(images, labels, variables)
        # Kernels are standardised once for all parts. What is summed over the parts is therefore
        # the standardised kernels' gradient, which is taken through the standardisation afterwards.
        place = {id(variable): i for i, variable in enumerate(variables)}
        convolutions = [
            layer for layer in standardized_convolutions(self.model) if id(layer.kernel) in place
        ]
        with tf.GradientTape() as tape:
            kernels = [layer.standardized_kernel() for layer in convolutions]
        places = [place[id(layer.kernel)] for layer in convolutions]

        def share(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
            sources = list(variables)
            for i, kernel in zip(places, kernels, strict=True):
                sources[i] = tf.identity(kernel)
            with using_kernels(convolutions, [sources[i] for i in places]):
                return self._share(images, labels, sources)

        total, sums = self._in_parts(share, images, labels)
        through = tape.gradient(
            kernels, [variables[i] for i in places], output_gradients=[sums[i] for i in places]
        )
        for i, gradient in zip(places, through, strict=True):
            sums[i] = gradient
        return total, sums

    def _in_parts(
        self, share: Share, images: tf.Tensor, labels: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Sums of what `share` returns for the micro-batches, one after the other."""
        parts = [
            tf.reshape(x, [self.microbatches, x.shape[0] // self.microbatches, *x.shape[1:]])
            for x in (images, labels)
        ]

        def add(i: tf.Tensor, total: tf.Tensor, sums: list[tf.Tensor]) -> tuple:
            more, gradients = share(parts[0][i], parts[1][i])
            sums = [a + b for a, b in zip(sums, gradients, strict=True)]
            return i + 1, total + tf.cast(more, tf.float32), sums

        zeros = [tf.zeros(v.shape, v.dtype) for v in self.model.trainable_variables]
        _, total, sums = tf.while_loop(
            lambda i, *_: i < self.microbatches,
            add,
            (0, tf.zeros([], tf.float32), zeros),
            parallel_iterations=1,
            maximum_iterations=self.microbatches,
        )
        return total, sums

    def _share(
        self, images: tf.Tensor, labels: tf.Tensor, sources: list[Any]
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """The share of the loss of some images, and its gradients to variables and tensors."""
        with tf.GradientTape() as tape:
            tape.watch([s for s in sources if not isinstance(s, keras.Variable)])
            losses = self.loss(labels, self.forward(images))
            share = tf.reduce_sum(losses) / self.batch_size
            scaled = self.optimizer.scale_loss(share)  # as it is, but for float16
        return share, tape.gradient(scaled, sources)

    def _unscaled_norm(self, gradients: list[tf.Tensor]) -> tf.Tensor:
        return _norm(gradients) / tf.cast(self.optimizer.scale_loss(1.0), tf.float32)


def _norm(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """The root of the sum of all squares, float32."""
    return tf.sqrt(tf.add_n([tf.reduce_sum(tf.square(tf.cast(t, tf.float32))) for t in tensors]))
