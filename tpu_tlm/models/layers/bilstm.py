"""A bidirectional LSTM layer with projection, clipping and a residual connection (ELMo)."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tpu_tlm.config.elmo import ElmoConfig
from tpu_tlm.models.layers.layer import Layer

# Cell float32 [2, B, dim] and output float32 [2, B, projection], forward then backward.
State = tuple[tf.Tensor, tf.Tensor]


def reverse_within(x: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
    """`[B, T, d]` with the first `lengths` int32 `[B]` positions of each row in reverse order."""
    at = tf.range(x.shape[1])[None]
    last = lengths[:, None] - 1
    return tf.gather(x, tf.where(at <= last, last - at, at), batch_dims=1)


class LstmWeights(Layer):
    """The variables of one direction: kernel `[2 P, 4 D]` with rows of input and output and
    columns of the input gate, candidate, forget gate and output gate; bias; projection `[D, P]`."""

    def __init__(self, config: ElmoConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        width, dim = config.projection, config.dim
        self.kernel = self.add_weight(
            name="kernel", shape=(2 * width, 4 * dim), initializer="zeros"
        )
        self.bias = self.add_weight(name="bias", shape=(4 * dim,), initializer="zeros")
        self.projection = (
            self.add_weight(name="projection", shape=(dim, width), initializer="zeros")
            if width != dim
            else None
        )


class BiLstm(Layer):
    """Both directions of one layer: `[2, B, T, P]`, the second reversed within its length, to the
    same. Past the end of a sentence outputs are 0 and the state stays.

    Sak et al. 2014 (arXiv 1402.1128) with clips; a bias of 1 is added to the forget gate.
    """

    def __init__(self, config: ElmoConfig, *, skip: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sizes, self.skip = config, skip
        self.directions = [
            LstmWeights(config, name=name, dtype=self.dtype_policy)
            for name in ("forward", "backward")
        ]

    def _clipped(self, x: tf.Tensor, limit: float | None) -> tf.Tensor:
        return x if limit is None else tf.clip_by_value(x, -limit, limit)

    def call(
        self, x: tf.Tensor, lengths: tf.Tensor, state: State | None = None
    ) -> tuple[tf.Tensor, State]:
        config = self.sizes
        width, steps = config.projection, x.shape[2]
        kernel, bias = (
            tf.stack([tf.convert_to_tensor(getattr(d, name)) for d in self.directions])
            for name in ("kernel", "bias")
        )
        projection = None
        if config.projection != config.dim:
            projection = tf.stack([tf.convert_to_tensor(d.projection) for d in self.directions])
        recurrent = kernel[:, width:]
        # All inputs at once: one large product, and a small one per step.
        inputs = tf.einsum("dbtp,dpq->tdbq", x, kernel[:, :width]) + bias[None, :, None]
        if state is None:
            rows = tf.shape(x)[1]
            state = (
                tf.zeros((2, rows, config.dim), tf.float32),
                tf.zeros((2, rows, width), tf.float32),
            )
        cell, hidden = state
        dtype = x.dtype
        reading = tf.TensorArray(dtype, steps, element_shape=inputs.shape[1:]).unstack(inputs)
        writing = tf.TensorArray(tf.float32, steps, element_shape=hidden.shape)

        def step(
            t: tf.Tensor, c: tf.Tensor, h: tf.Tensor, out: tf.TensorArray
        ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.TensorArray]:
            z = reading.read(t) + tf.matmul(tf.cast(h, dtype), recurrent)
            i, j, f, o = tf.split(tf.cast(z, tf.float32), 4, axis=-1)
            new = tf.sigmoid(f + 1.0) * c + tf.sigmoid(i) * tf.tanh(j)
            new = self._clipped(new, config.cell_clip)
            m = tf.sigmoid(o) * tf.tanh(new)
            if projection is not None:
                m = tf.cast(tf.matmul(tf.cast(m, dtype), projection), tf.float32)
                m = self._clipped(m, config.proj_clip)
            there = (t < lengths)[None, :, None]
            out = out.write(t, tf.where(there, m, tf.zeros([], tf.float32)))
            return t + 1, tf.where(there, new, c), tf.where(there, m, h), out

        _, cell, hidden, out = tf.while_loop(
            lambda t, *_: t < steps,
            step,
            (tf.constant(0), cell, hidden, writing),
            maximum_iterations=steps,
        )
        found = tf.cast(tf.transpose(out.stack(), (1, 2, 0, 3)), dtype)
        found = tf.ensure_shape(found, x.shape)
        if self.skip:
            # Past the end the input is 0, being another layer's output.
            found += x
        return found, (cell, hidden)
