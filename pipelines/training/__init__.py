"""Small models over a store's features: trained, measured, applied."""
