"""Heads: small models trained on a store's features; workers apply them with numpy alone.

``pooling`` and ``dataset`` average a feature's rows to one vector per video, ``truths`` reads the labels of videos,
``training`` and ``saved_model`` (with TensorFlow) train a head, ``published`` keeps it in the store, ``plain`` applies
it, ``tagging`` applies it to every video of a source, ``scoring`` measures it.
"""
