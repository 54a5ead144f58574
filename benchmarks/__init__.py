"""Speed and memory of the operator beside its peers."""
