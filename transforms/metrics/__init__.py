"""Metrics of predicted labels and of retrieval, computed exactly from partial results that merge in any order.

``scores`` has ranked predictions, ``labels`` and ``segments`` the metrics over them, ``combine`` the Beam transforms.
Conventions where published implementations are ambiguous or differ:

* A higher score ranks first; within a video, ties are ordered by class index (at the top-20 cut-off, for Hit@1 and
  PERR).
* Predictions pooled over videos with tied scores are one step of the ranking: each of their positives gets the
  precision at the step's end, as in scikit-learn's ``average_precision_score``. YouTube-8M's code shuffles with seed 0
  and sorts, so its result depends on the order of the input; one version of it interpolates at 1,000 thresholds.
* Classes without a positive are excluded from MAP, as in YouTube-8M's code with its filter enabled; with the filter
  disabled they count as 0.
* A video without labels is a miss in Hit@1 and has PERR 0. YouTube-8M's PERR also drops predictions of score 0 or less;
  here they count like others, so that logits can be ranked too.
* Scores are float32, as models emit them; -0 is 0.
"""
