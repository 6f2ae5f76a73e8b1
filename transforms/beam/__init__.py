"""Steps for pipelines that Beam users build themselves: no store, no plan; elements have Beam schemas."""
