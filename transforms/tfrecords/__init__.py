"""TFRecord shards without TensorFlow: framing, tf.train.Example, the formats of YouTube-8M, quantisation, PCA."""
