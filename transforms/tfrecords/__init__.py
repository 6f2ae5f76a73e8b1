"""TFRecord shards without TensorFlow: framing, tf.train.Example, YouTube-8M's formats, quantisation, PCA."""
