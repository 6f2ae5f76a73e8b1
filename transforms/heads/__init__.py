"""Heads: small models over a store's features. What is trained here runs on workers with numpy alone.

``pooling`` and ``dataset`` make a video's vectors of a feature's rows, ``truths`` finds what videos are labelled as,
``training`` and ``saved_model`` (with TensorFlow) make a head, ``published`` keeps it in the store, ``plain`` applies
it, ``tagging`` does so for every video of a source, ``scoring`` measures it.
"""
