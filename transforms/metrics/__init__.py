"""The field's figures for labels, computed exactly from parts that merge in any order.

``scores`` holds ranked predictions, ``labels`` and ``segments`` the metrics over them, ``combine`` the Beam side. Laws
where published implementations leave room or differ:

* A higher score ranks first; in a video, of equal scores the lower class index does (at the top 20's edge, for Hit@1
  and PERR).
* Predictions pooled over videos that have equal scores are one step of the ranking: each of their positives gets the
  precision at the step's end, as in scikit-learn's ``average_precision_score``. YouTube-8M's code shuffles with seed 0
  and sorts, so there the result depends on the order of the input; one version of it interpolates at 1,000 thresholds.
* Classes without a positive are left out of MAP, and so they are in YouTube-8M's code where its filter is on; without
  it they count as 0.
* A video without labels is a miss in Hit@1 and has PERR 0. YouTube-8M's PERR also drops predictions of score 0 or less;
  here they are predictions like others, so that logits can be ranked too.
* Scores are float32, as models emit them; -0 is 0.
"""
