"""Pure functions on tensors: features and labels in, numbers out."""
