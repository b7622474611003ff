"""A timed masked-LM training written with KerasHub's layers and Keras's own trainer.

    python -m benchmarks.keras_hub_training CURVE ARRAYS SIZES    # SIZES as JSON

The model is `BertBackbone` with `MaskedLMHead`. Masks, optimizer and learning rate are those of
KerasHub's guide https://keras.io/keras_hub/guides/transformer_pretraining: `MaskedLMMaskGenerator`
in the input pipeline at a rate of 0.25, AdamW at 5e-4, XLA. The guide's own model is made of
`TransformerEncoder` layers, whose initial weights are others. ARRAYS is written by
`benchmarks.our_training arrays`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning_curve import Stopwatch

MASK_RATE, LEARNING_RATE, DROPOUT = 0.25, 5e-4, 0.1
STEPS_PER_CALL, EVALUATED_TOGETHER, SEED = 10, 64, 0


def build(vocabulary: int, length: int, sizes: dict[str, int]) -> Any:
    """The compiled `keras.Model`: token_ids and mask_positions to logits."""
    import keras
    import keras_hub

    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=vocabulary,
        num_layers=sizes["num_layers"],
        num_heads=sizes["num_heads"],
        hidden_dim=sizes["d_model"],
        intermediate_dim=sizes["d_ff"],
        dropout=DROPOUT,
        max_sequence_length=length,
    )
    inputs = {
        "token_ids": keras.Input((length,), dtype="int32"),
        "mask_positions": keras.Input((None,), dtype="int32"),
    }
    features = {
        "token_ids": inputs["token_ids"],
        "segment_ids": keras.ops.zeros_like(inputs["token_ids"]),
        "padding_mask": keras.ops.ones_like(inputs["token_ids"]),
    }
    head = keras_hub.layers.MaskedLMHead(
        vocabulary_size=vocabulary,
        token_embedding=backbone.token_embedding,
        intermediate_activation="gelu",
    )
    hidden = backbone(features)["sequence_output"]
    model = keras.Model(inputs, head(hidden, mask_positions=inputs["mask_positions"]))
    model.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        optimizer=keras.optimizers.AdamW(LEARNING_RATE),
        weighted_metrics=["sparse_categorical_accuracy"],
        jit_compile=True,
        steps_per_execution=STEPS_PER_CALL,
    )
    return model


def batches(ids: np.ndarray, vocabulary: dict[str, Any], batch_size: int) -> Any:
    """Endless batches with masks that are new in every pass, as the guide makes them."""
    import keras_hub
    import tensorflow as tf

    masker = keras_hub.layers.MaskedLMMaskGenerator(
        vocabulary_size=vocabulary["size"],
        mask_selection_rate=MASK_RATE,
        mask_selection_length=int(MASK_RATE * ids.shape[1]),
        mask_token_id=vocabulary["mask_id"],
        unselectable_token_ids=vocabulary["special_ids"],
    )

    def masked(part: Any) -> tuple[dict[str, Any], Any, Any]:
        found = masker(part)
        features = {name: found[name] for name in ("token_ids", "mask_positions")}
        return features, found["mask_ids"], found["mask_weights"]

    data = tf.data.Dataset.from_tensor_slices(ids.astype(np.int32))
    data = data.shuffle(len(ids), seed=SEED).repeat().batch(batch_size, drop_remainder=True)
    return data.map(masked, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


class Validation:
    """Cross-entropy per target of a model over arrays of `our_training.valid_arrays`."""

    def __init__(self, model: Any, arrays: dict[str, np.ndarray]) -> None:
        import tensorflow as tf

        @tf.function(jit_compile=True, autograph=False)
        def losses(part: dict[str, Any]) -> Any:
            features = {"token_ids": part["ids"], "mask_positions": part["positions"]}
            found = tf.nn.sparse_softmax_cross_entropy_with_logits(
                part["labels"], model(features, training=False)
            )
            return tf.reduce_sum(found * part["weights"])

        self._losses, self.targets = losses, float(arrays["weights"].sum())
        missing = -len(arrays["ids"]) % EVALUATED_TOGETHER
        # The last batch is filled with examples that have no weight.
        filled = {
            name: np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])
            for name, array in arrays.items()
        }
        self._parts = [
            {k: tf.constant(v[at : at + EVALUATED_TOGETHER]) for k, v in filled.items()}
            for at in range(0, len(filled["ids"]), EVALUATED_TOGETHER)
        ]

    def __call__(self) -> float:
        return float(sum(float(self._losses(part)) for part in self._parts)) / self.targets


def train(curve: Path, arrays: Path, sizes: dict[str, int]) -> None:
    """`fit` for sizes["steps"] steps, measured every sizes["eval_steps"]."""
    import keras

    keras.utils.set_random_seed(SEED)
    vocabulary = json.loads((arrays / "vocabulary.json").read_text(encoding="utf-8"))
    ids = np.load(arrays / "train.npy")
    model = build(vocabulary["size"], ids.shape[1], sizes)
    with np.load(arrays / "valid.npz") as valid:
        validation = Validation(model, {name: valid[name] for name in valid.files})
    watch = Stopwatch()

    class Timed(keras.callbacks.Callback):  # type: ignore[misc]
        """Tells the time after every device call, and measures the model."""

        def on_train_begin(self, logs: Any = None) -> None:
            watch.go()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            made = int(batch) + 1
            watch.steps(made)
            if made % sizes["eval_steps"] == 0 or made == sizes["steps"]:
                watch.loss(made, validation())

    model.fit(
        batches(ids, vocabulary, sizes["batch_size"]),
        steps_per_epoch=sizes["steps"],
        callbacks=[Timed()],
        verbose=0,
    )
    watch.curve.save(curve)


if __name__ == "__main__":
    train(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
