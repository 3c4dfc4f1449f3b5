"""Audio in: files, manifests and the feature front-ends of the original toolkits."""
