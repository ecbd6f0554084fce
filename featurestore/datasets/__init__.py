"""Training sets to rely on: manifests, making a set again, comparing two, splits, samples and twins across splits."""
